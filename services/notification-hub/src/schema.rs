//! The tables of schema `notification-hub`, made from its migrations; a test compares them.

diesel::table! {
    api_keys (id) {
        id -> Uuid,
        client -> Text,
        slot -> SmallInt,
        scopes -> Array<Text>,
        digest -> Bytea,
        fingerprint -> Bytea,
        created_by -> Uuid,
        created_at -> Timestamptz,
        revoked_by -> Nullable<Uuid>,
        revoked_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    channel_paces (channel) {
        channel -> Text,
        next_send_at -> Timestamptz,
    }
}

diesel::table! {
    deliveries (id) {
        id -> Uuid,
        notification_id -> Uuid,
        channel -> Text,
        status -> Text,
        attempt -> Integer,
        next_attempt_at -> Timestamptz,
        lease_until -> Nullable<Timestamptz>,
        lock_token -> BigInt,
        dead_lettered_at -> Nullable<Timestamptz>,
        last_error -> Nullable<Text>,
        priority -> SmallInt,
        target -> Nullable<Text>,
        subject -> Text,
        body -> Text,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        is_markup -> Bool,
    }
}

diesel::table! {
    delivery_attempts (delivery_id, lock_token) {
        delivery_id -> Uuid,
        lock_token -> BigInt,
        error -> Nullable<Text>,
        ended_at -> Timestamptz,
    }
}

diesel::table! {
    notification_preferences (user_id) {
        user_id -> Uuid,
        muted -> Array<Text>,
        updated_at -> Timestamptz,
        language -> Nullable<Text>,
    }
}

diesel::table! {
    notification_templates (name, channel, language, version) {
        name -> Text,
        channel -> Text,
        language -> Text,
        version -> Integer,
        id -> Uuid,
        fingerprint -> Bytea,
        subject -> Text,
        body -> Text,
        sample -> Nullable<Jsonb>,
        is_active -> Bool,
        created_by -> Uuid,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    notifications (id) {
        id -> Uuid,
        event_id -> Uuid,
        #[sql_name = "type"]
        kind -> Text,
        user_id -> Nullable<Uuid>,
        data -> Jsonb,
        created_at -> Timestamptz,
        requested_by -> Nullable<Uuid>,
        fingerprint -> Nullable<Bytea>,
        traceparent -> Nullable<Text>,
    }
}

diesel::table! {
    product_notification_history (product_id, round) {
        product_id -> Uuid,
        round -> BigInt,
        id -> Uuid,
        status -> Text,
        stock_version -> BigInt,
        last_subscription_id -> BigInt,
        ceiling -> BigInt,
        start_tx -> BigInt,
        end_tx -> Nullable<BigInt>,
        recipient_count -> BigInt,
        sent_count -> BigInt,
        epoch -> BigInt,
        lease_until -> Nullable<Timestamptz>,
        error -> Nullable<Text>,
        started_at -> Timestamptz,
        ended_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    product_user_notification (product_id, id) {
        id -> BigInt,
        product_id -> Uuid,
        user_id -> Uuid,
        tx_id -> BigInt,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    product_user_notification_history (product_id, round, subscription_id) {
        product_id -> Uuid,
        round -> BigInt,
        subscription_id -> BigInt,
        user_id -> Uuid,
        notification_id -> Uuid,
        attempted_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    restock_limit (id) {
        id -> SmallInt,
        rested_at -> Timestamptz,
    }
}

diesel::table! {
    webhook_endpoints (name) {
        name -> Text,
        url -> Text,
        secret -> Text,
        old_secret -> Nullable<Text>,
        old_secret_until -> Nullable<Timestamptz>,
        created_by -> Uuid,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        disabled_at -> Nullable<Timestamptz>,
    }
}

diesel::joinable!(deliveries -> notifications (notification_id));
diesel::joinable!(delivery_attempts -> deliveries (delivery_id));
diesel::joinable!(product_user_notification_history -> notifications (notification_id));

diesel::allow_tables_to_appear_in_same_query!(
    api_keys,
    channel_paces,
    deliveries,
    delivery_attempts,
    notification_preferences,
    notification_templates,
    notifications,
    product_notification_history,
    product_user_notification,
    product_user_notification_history,
    restock_limit,
    webhook_endpoints,
);
