delete from pending_steps where step = 'FREE_COUPON';
alter table pending_steps drop constraint pending_steps_step_check;
alter table pending_steps add constraint pending_steps_step_check
    check (step in ('FREE_ORDER', 'FREE_HOLD', 'PAY_ORDER'));
alter table payments drop column coupon_issue_id;
