//! The tables of schema `coupon`, made from its migrations; a test compares them.

diesel::table! {
    coupon_issue (id) {
        id -> Uuid,
        coupon_id -> Uuid,
        user_id -> Uuid,
        take_id -> Text,
        version -> BigInt,
        issued_at -> Timestamptz,
    }
}

diesel::table! {
    coupon_issue_failures (issue_id) {
        issue_id -> Uuid,
        coupon_id -> Uuid,
        user_id -> Uuid,
        reason -> Text,
        failed_at -> Timestamptz,
    }
}

diesel::table! {
    coupon_redemptions (order_id) {
        order_id -> Uuid,
        coupon_issue_id -> Nullable<Uuid>,
        state -> Text,
        expires_at -> Timestamptz,
        pinned_by -> Nullable<Uuid>,
        pinned_late -> Bool,
        unpinned_by -> Array<Uuid>,
        order_version -> Nullable<BigInt>,
        discount -> BigInt,
        currency -> Text,
        lines -> Jsonb,
        reason -> Nullable<Text>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        restored_on_refund -> Nullable<Bool>,
    }
}

diesel::table! {
    coupons (id) {
        id -> Uuid,
        name -> Text,
        discount_kind -> Text,
        discount_value -> BigInt,
        currency -> Text,
        minimum_amount -> BigInt,
        maximum_discount -> Nullable<BigInt>,
        product_ids -> Array<Uuid>,
        total -> BigInt,
        issued -> BigInt,
        starts_at -> Timestamptz,
        expires_at -> Timestamptz,
        restored_on_refund -> Bool,
        closed -> Bool,
        epoch -> BigInt,
        version -> BigInt,
        fingerprint -> Bytea,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::joinable!(coupon_redemptions -> coupon_issue (coupon_issue_id));

diesel::allow_tables_to_appear_in_same_query!(coupon_issue, coupon_issue_failures, coupon_redemptions, coupons);
