alter table coupon_redemptions drop column restored_on_refund;
