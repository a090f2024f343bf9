-- What is to be done at other services is rows, one for each step, instead of two flags of the payment; and webhooks are
-- only stored, so that none waits for a payment that is being approved.

create table pending_steps (
    payment_id uuid not null references payments (id),
    -- FREE_ORDER and FREE_HOLD, in this order, when an attempt came to nothing; PAY_ORDER when the money is there.
    step text not null check (step in ('FREE_ORDER', 'FREE_HOLD', 'PAY_ORDER')),
    -- The attempt that it follows from.
    attempt_id uuid not null,
    created_at timestamptz not null default clock_timestamp(),
    -- The flow that makes a step takes it at once; the loop takes those that nobody has done by then.
    next_try_at timestamptz not null,
    primary key (payment_id, step)
);

create index pending_steps_due on pending_steps (next_try_at);

insert into pending_steps (payment_id, step, attempt_id, next_try_at)
select id, step, attempt_id, settle_at
from payments
cross join lateral (
    select unnest(case when owes_release then array['FREE_ORDER', 'FREE_HOLD'] else array['PAY_ORDER'] end) as step
) as owed
where (owes_release or owes_order) and attempt_id is not null;

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
    exists (
        select from pending_steps where pending_steps.payment_id = payments.id and pending_steps.step = 'PAY_ORDER'
    ) or coalesce(given_back.is_open, false) as is_open,
    greatest(payments.updated_at, given_back.ended_at) as moved_at
from payments
left join lateral (
    select bool_or(refunds.status = 'PENDING') as is_open, max(refunds.ended_at) as ended_at
    from refunds
    where refunds.payment_id = payments.id
) as given_back on true;

alter table payments drop column owes_release, drop column owes_order, drop column settle_at;

-- Whether the resolver has looked at the payment that the webhook names.
alter table psp_webhooks add column is_handled boolean not null default true;
alter table psp_webhooks alter column is_handled set default false;
create index psp_webhooks_unhandled on psp_webhooks (received_at) where not is_handled;

-- The steps of a payment come and go with each approval: few rows, many changes.
alter table pending_steps set (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000);
