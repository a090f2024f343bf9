//! The tables of schema `order`, made from its migrations; a test compares them.

diesel::table! {
    archive_runs (id) {
        id -> Uuid,
        requested_by -> Nullable<Uuid>,
        status -> Text,
        unchanged_since -> Timestamptz,
        orders -> BigInt,
        items -> BigInt,
        chunks -> BigInt,
        error -> Nullable<Text>,
        created_at -> Timestamptz,
        started_at -> Nullable<Timestamptz>,
        ended_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    archive_schedule (only_row) {
        only_row -> Bool,
        done_until -> Timestamptz,
    }
}

diesel::table! {
    order_items (order_id, line) {
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
    order_items_archive (order_id, line) {
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
    orders (id) {
        id -> Uuid,
        user_id -> Uuid,
        status -> Text,
        version -> BigInt,
        amount -> BigInt,
        currency -> Text,
        fingerprint -> Bytea,
        idempotency_key -> Text,
        hold_expires_at -> Timestamptz,
        first_hold_expires_at -> Timestamptz,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        cancel_reason -> Nullable<Text>,
        approving_payment_id -> Nullable<Uuid>,
        approving_attempt_id -> Nullable<Uuid>,
        ended_attempt_ids -> Array<Uuid>,
        paid_payment_id -> Nullable<Uuid>,
        returned_payment_ids -> Array<Uuid>,
        coupon_issue_id -> Nullable<Uuid>,
    }
}

diesel::table! {
    orders_archive (id) {
        id -> Uuid,
        user_id -> Uuid,
        status -> Text,
        version -> BigInt,
        amount -> BigInt,
        currency -> Text,
        fingerprint -> Bytea,
        idempotency_key -> Text,
        hold_expires_at -> Timestamptz,
        first_hold_expires_at -> Timestamptz,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        cancel_reason -> Nullable<Text>,
        approving_payment_id -> Nullable<Uuid>,
        approving_attempt_id -> Nullable<Uuid>,
        ended_attempt_ids -> Array<Uuid>,
        paid_payment_id -> Nullable<Uuid>,
        returned_payment_ids -> Array<Uuid>,
        coupon_issue_id -> Nullable<Uuid>,
        archived_at -> Timestamptz,
    }
}

diesel::table! {
    queue_bypasses (order_id) {
        order_id -> Uuid,
        event_id -> Uuid,
        user_id -> Uuid,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    sale_events (event_id) {
        event_id -> Uuid,
        version -> BigInt,
        opens_at -> Timestamptz,
        closes_at -> Nullable<Timestamptz>,
        closed -> Bool,
        product_ids -> Array<Uuid>,
        queue_manage_required -> Bool,
        verify_offline -> Bool,
        closed_on_outage -> Bool,
        rate_per_minute -> BigInt,
        pass_key -> Text,
    }
}

diesel::table! {
    shipping_info (order_id) {
        order_id -> Uuid,
        recipient -> Text,
        phone -> Text,
        postal_code -> Text,
        address -> Text,
        memo -> Nullable<Text>,
    }
}

diesel::table! {
    shipping_info_archive (order_id) {
        order_id -> Uuid,
        recipient -> Text,
        phone -> Text,
        postal_code -> Text,
        address -> Text,
        memo -> Nullable<Text>,
    }
}

diesel::allow_tables_to_appear_in_same_query!(
    archive_runs,
    archive_schedule,
    order_items,
    order_items_archive,
    orders,
    orders_archive,
    queue_bypasses,
    sale_events,
    shipping_info,
    shipping_info_archive,
);
