-- Whether nobody buys: the newest event of this schema is older than $1 seconds, or there is none.
select
    coalesce(
        (
            select e.created_at < statement_timestamp() - $1 * interval '1 second'
            from outbox_events as e
            order by e.id desc
            limit 1
        ),
        true
    ) as is_quiet
