-- $1 transfer
select payment_id, point_transfers.amount, fingerprint, balance, point_transfers.created_at
from point_transfers
left join point_entries on transfer_id = point_transfers.id and account = 'USER'
where point_transfers.id = $1
