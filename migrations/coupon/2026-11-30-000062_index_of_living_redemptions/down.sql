drop index coupon_redemptions_live;
create unique index coupon_redemptions_live on coupon_redemptions (coupon_issue_id)
    where state in ('RESERVED', 'PINNED', 'CONFIRMED');
