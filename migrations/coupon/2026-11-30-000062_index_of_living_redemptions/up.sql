-- As for holds (inventory, step 43): the sweeper, which looks for RESERVED redemptions by their time, must not search this
-- index from one end to the other. The condition takes no redemption out: one without an issue is RELEASED.
--
-- Built without `concurrently`: nothing is released yet.
drop index coupon_redemptions_live;
create unique index coupon_redemptions_live on coupon_redemptions (coupon_issue_id)
    where state in ('RESERVED', 'PINNED', 'CONFIRMED') and coupon_issue_id is not null;
