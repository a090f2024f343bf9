-- Sets those of some holds to EXPIRED that are still HELD, past their time and locked by nobody.
-- $1 hold ids
with expired as materialized (
    select holds.hold_id
      from holds
     where holds.hold_id = any($1::uuid[])
       and holds.state = 'HELD'
       and holds.expires_at <= clock_timestamp()
     order by holds.hold_id
       for update skip locked
)
update holds
   set state = 'EXPIRED',
       updated_at = clock_timestamp()
  from expired
 where holds.hold_id = expired.hold_id
returning holds.hold_id
