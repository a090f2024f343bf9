-- $1 user
-- $2 before this entry
-- $3 how many
select point_entries.id, kind, point_entries.amount, balance, payment_id, point_entries.created_at
from point_entries
join point_transfers on point_transfers.id = transfer_id
where point_entries.user_id = $1 and point_entries.id < $2
order by point_entries.id desc
limit $3
