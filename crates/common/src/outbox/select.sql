-- $1 shards, $2 rows of each at most, $3 topics to leave out. The oldest rows that may be sent, by status and never by a cursor: an id is
-- taken before its row can be seen, so whoever remembers a highest id loses rows.
select r.id, r.event_id, r.topic, r.key, r.aggregate_version, r.payload, r.headers, r.attempts, r.created_at
from unnest($1::smallint[]) as s (shard)
cross join lateral (
    select *
    from outbox_events as e
    where e.shard = s.shard
      and e.status = 'NEW'
      and e.topic <> all ($3)
      -- Nothing of a key overtakes a row that waits for its next attempt, or for help.
      and not exists (
          select 1
          from outbox_events as b
          where b.topic = e.topic
            and b.key = e.key
            and b.id <= e.id
            and (b.status = 'DEAD' or (b.status = 'NEW' and b.attempts > 0))
            and (b.status = 'DEAD' or b.due_at > clock_timestamp())
      )
    order by e.id
    limit $2
) as r
order by r.id
