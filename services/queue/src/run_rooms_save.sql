-- Saves how a room stands, unless another replica has just done so, or has built the room again. The line has ended at the floor
-- only if the sale is still sold out: after a restock there are people behind it.
-- $1 event, $2 epoch, $3 front, $4 issued, $5 floor, $6 numbers of passes in use, $7 their ends, $8 numbers with an offered slot,
-- $9 those who were passed over and have come back, $10 people let in beyond the rate
update rooms
set front = $3, issued = greatest(issued, $4), floor = greatest(floor, case when exists (
        select from sale_events where id = $1 and sold_out = 'FINAL'
    ) then $5 else 0 end), active_seqs = $6::bigint[],
    active_until = $7::bigint[], offered_seqs = $8::bigint[], back_seqs = $9::bigint[],
    let_in = greatest(let_in, $10), saved_at = clock_timestamp()
where event_id = $1 and epoch = $2 and (saved_at is null or saved_at < clock_timestamp() - interval '500 milliseconds')
