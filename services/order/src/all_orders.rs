//! The views of schema `order` that have every order, archived or not. They are read and never written.
//!
//! They are not in `schema.rs`, because PostgreSQL does not say which columns of a view may be null.

diesel::table! {
    all_orders (id) {
        id -> Uuid,
        user_id -> Uuid,
        status -> Text,
        version -> BigInt,
        amount -> BigInt,
        currency -> Text,
        fingerprint -> Bytea,
        hold_expires_at -> Timestamptz,
        first_hold_expires_at -> Timestamptz,
        created_at -> Timestamptz,
        cancel_reason -> Nullable<Text>,
        approving_payment_id -> Nullable<Uuid>,
        approving_attempt_id -> Nullable<Uuid>,
        ended_attempt_ids -> Array<Uuid>,
        paid_payment_id -> Nullable<Uuid>,
        returned_payment_ids -> Array<Uuid>,
        coupon_issue_id -> Nullable<Uuid>,
        archived_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    all_order_items (order_id, line) {
        order_id -> Uuid,
        line -> SmallInt,
        product_id -> Uuid,
        sku -> Text,
        name -> Text,
        quantity -> Integer,
        unit_price -> BigInt,
        discount -> BigInt,
        seats -> Array<Text>,
    }
}

diesel::table! {
    all_shipping_info (order_id) {
        order_id -> Uuid,
        recipient -> Text,
        phone -> Text,
        postal_code -> Text,
        address -> Text,
        memo -> Nullable<Text>,
    }
}

diesel::allow_tables_to_appear_in_same_query!(all_orders, all_order_items, all_shipping_info);
