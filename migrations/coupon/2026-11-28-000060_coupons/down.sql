drop table coupon_redemptions;
drop table coupon_issue_failures;
drop table coupon_issue;
drop table coupons;
