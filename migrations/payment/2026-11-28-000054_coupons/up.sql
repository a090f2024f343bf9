-- The issued coupon that the payment's order uses: its redemption is pinned and freed with the order's hold.
alter table payments add column coupon_issue_id uuid;

alter table pending_steps drop constraint pending_steps_step_check;
-- FREE_ORDER, FREE_HOLD and FREE_COUPON, in this order, when an attempt came to nothing; PAY_ORDER when the money is there.
alter table pending_steps add constraint pending_steps_step_check
    check (step in ('FREE_ORDER', 'FREE_HOLD', 'FREE_COUPON', 'PAY_ORDER'));
