-- Inserts tombstones for holds that were released before they were made, except where a hold has appeared meanwhile.
-- $1 now  $2 hold ids  $3 reasons, one for each hold id
insert into holds (hold_id, state, expires_at, reason, created_at, updated_at)
select released.hold_id, 'RELEASED', $1::timestamptz, released.reason, $1, $1
  from unnest($2::uuid[], $3::text[]) as released (hold_id, reason)
 order by released.hold_id
    on conflict (hold_id) do nothing
