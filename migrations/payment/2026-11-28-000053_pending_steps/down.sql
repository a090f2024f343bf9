drop index psp_webhooks_unhandled;
alter table psp_webhooks drop column is_handled;

alter table payments
add column owes_release boolean not null default false,
add column owes_order boolean not null default false,
add column settle_at timestamptz not null default now();

update payments
set owes_release = exists (
        select from pending_steps where pending_steps.payment_id = payments.id and pending_steps.step <> 'PAY_ORDER'
    ),
    owes_order = exists (
        select from pending_steps where pending_steps.payment_id = payments.id and pending_steps.step = 'PAY_ORDER'
    );
create index payments_owing on payments (settle_at) where owes_release or owes_order;

drop view payments_compared;
create view payments_compared as
select
    payments.id,
    payments.order_id,
    payments.method,
    payments.status,
    payments.pg_payment_id,
    payments.amount,
    payments.captured,
    payments.refunded,
    payments.created_at,
    payments.owes_order or coalesce(given_back.is_open, false) as is_open,
    greatest(payments.updated_at, given_back.ended_at) as moved_at
from payments
left join lateral (
    select bool_or(refunds.status = 'PENDING') as is_open, max(refunds.ended_at) as ended_at
    from refunds
    where refunds.payment_id = payments.id
) as given_back on true;

drop table pending_steps;
