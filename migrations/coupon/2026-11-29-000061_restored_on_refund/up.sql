-- Whether a refund gives the coupon back, as its order was told when it reserved the coupon.
-- Null: a tombstone, or reserved before there was this column; then it is what the coupon says now.
alter table coupon_redemptions add column restored_on_refund boolean;
