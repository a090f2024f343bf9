-- $1 days that webhooks are kept
-- $2 how many
delete from psp_webhooks
where (provider, webhook_id) in (
    select provider, webhook_id
    from psp_webhooks
    where received_at < statement_timestamp() - $1 * interval '1 day'
    order by received_at
    limit $2
)
