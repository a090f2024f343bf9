//! The tables of schema `payment`.

diesel::table! {
    payment_attempt (id) {
        id -> Uuid,
        payment_id -> Uuid,
        pg_payment_id -> Text,
        idempotency_key -> Text,
        amount -> Int8,
        status -> Text,
        pg_code -> Nullable<Text>,
        pg_message -> Nullable<Text>,
        started_at -> Timestamptz,
        ended_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    payments (id) {
        id -> Uuid,
        order_id -> Uuid,
        user_id -> Uuid,
        method -> Text,
        amount -> Int8,
        currency -> Text,
        idempotency_key -> Text,
        fingerprint -> Bytea,
        status -> Text,
        version -> Int8,
        attempt_id -> Nullable<Uuid>,
        pg_payment_id -> Nullable<Text>,
        captured -> Int8,
        refunded -> Int8,
        expires_at -> Timestamptz,
        approving_since -> Nullable<Timestamptz>,
        requested_at -> Nullable<Timestamptz>,
        ask_at -> Nullable<Timestamptz>,
        asked -> Int4,
        absent_since -> Nullable<Timestamptz>,
        undo_at -> Nullable<Timestamptz>,
        owes_release -> Bool,
        owes_order -> Bool,
        settle_at -> Timestamptz,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    point (account_id) {
        account_id -> Uuid,
        balance -> Int8,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    point_entries (id) {
        id -> Int8,
        transfer_id -> Uuid,
        account -> Text,
        user_id -> Nullable<Uuid>,
        amount -> Int8,
        balance -> Nullable<Int8>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    point_holds (payment_id) {
        payment_id -> Uuid,
        user_id -> Uuid,
        amount -> Int8,
        given_back -> Int8,
        status -> Text,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    point_transfers (id) {
        id -> Uuid,
        kind -> Text,
        user_id -> Uuid,
        payment_id -> Nullable<Uuid>,
        amount -> Int8,
        fingerprint -> Nullable<Bytea>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    psp_webhooks (provider, webhook_id) {
        provider -> Text,
        webhook_id -> Text,
        payment_id -> Nullable<Uuid>,
        payload -> Text,
        received_at -> Timestamptz,
    }
}

diesel::table! {
    reconciliation_findings (id) {
        id -> Int8,
        run_id -> Uuid,
        kind -> Text,
        merchant_pay_key -> Text,
        payment_id -> Nullable<Uuid>,
        order_id -> Nullable<Uuid>,
        pg_payment_id -> Nullable<Text>,
        expected -> Int8,
        found -> Int8,
        action -> Text,
        detail -> Text,
        found_at -> Timestamptz,
    }
}

diesel::table! {
    reconciliation_runs (id) {
        id -> Uuid,
        provider -> Text,
        from_time -> Timestamptz,
        to_time -> Timestamptz,
        requested_by -> Nullable<Uuid>,
        status -> Text,
        lease_until -> Nullable<Timestamptz>,
        runner -> Int4,
        captured -> Int8,
        cancelled -> Int8,
        paid -> Int8,
        difference -> Int8,
        book_entries -> Int8,
        payments -> Int8,
        findings -> Int8,
        error -> Nullable<Text>,
        created_at -> Timestamptz,
        started_at -> Nullable<Timestamptz>,
        ended_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    refunds (id) {
        id -> Uuid,
        payment_id -> Uuid,
        amount -> Int8,
        reason -> Text,
        fingerprint -> Bytea,
        pg_payment_id -> Text,
        stray -> Bool,
        status -> Text,
        pg_code -> Nullable<Text>,
        ask_at -> Nullable<Timestamptz>,
        asked -> Int4,
        created_at -> Timestamptz,
        ended_at -> Nullable<Timestamptz>,
    }
}
