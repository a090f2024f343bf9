-- Has the provider asked about the payments that webhooks name, unless they are known to be captured by now.
-- $1 how many webhooks
-- $2 seconds that an approval under way gets to learn the outcome by itself
with due as (
    select provider, webhook_id, payment_id
    from psp_webhooks
    where not is_handled and received_at <= statement_timestamp() - $2 * interval '1 second'
    order by received_at
    limit $1
    for update skip locked
),
locked as (
    select id
    from payments
    where id in (select payment_id from due)
        and attempt_id is not null
        and status in ('PENDING', 'APPROVING', 'UNKNOWN', 'NEEDS_REVIEW', 'FAILED', 'CANCELLED', 'EXPIRED')
    order by id
    for no key update
),
asked as (
    update payments
    set ask_at = statement_timestamp()
    from locked
    where payments.id = locked.id
    returning payments.id
),
handled as (
    update psp_webhooks
    set is_handled = true
    from due
    where psp_webhooks.provider = due.provider and psp_webhooks.webhook_id = due.webhook_id
    returning psp_webhooks.webhook_id
)
select (select count(*) from handled) as webhooks, (select count(*) from asked) as payments
