//! The tables of schema `payment`, made from its migrations; a test compares them.

diesel::table! {
    payment_attempt (id) {
        id -> Uuid,
        payment_id -> Uuid,
        pg_payment_id -> Text,
        idempotency_key -> Text,
        amount -> BigInt,
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
        amount -> BigInt,
        currency -> Text,
        idempotency_key -> Text,
        fingerprint -> Bytea,
        status -> Text,
        version -> BigInt,
        attempt_id -> Nullable<Uuid>,
        pg_payment_id -> Nullable<Text>,
        captured -> BigInt,
        refunded -> BigInt,
        expires_at -> Timestamptz,
        approving_since -> Nullable<Timestamptz>,
        requested_at -> Nullable<Timestamptz>,
        ask_at -> Nullable<Timestamptz>,
        asked -> Integer,
        absent_since -> Nullable<Timestamptz>,
        undo_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        coupon_issue_id -> Nullable<Uuid>,
    }
}

diesel::table! {
    pending_steps (payment_id, step) {
        payment_id -> Uuid,
        step -> Text,
        attempt_id -> Uuid,
        created_at -> Timestamptz,
        next_try_at -> Timestamptz,
    }
}

diesel::table! {
    point (account_id) {
        account_id -> Uuid,
        balance -> BigInt,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    point_entries (id) {
        id -> BigInt,
        transfer_id -> Uuid,
        account -> Text,
        user_id -> Nullable<Uuid>,
        amount -> BigInt,
        balance -> Nullable<BigInt>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    point_holds (payment_id) {
        payment_id -> Uuid,
        user_id -> Uuid,
        amount -> BigInt,
        given_back -> BigInt,
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
        amount -> BigInt,
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
        is_handled -> Bool,
    }
}

diesel::table! {
    reconciliation_findings (id) {
        id -> BigInt,
        run_id -> Uuid,
        kind -> Text,
        merchant_pay_key -> Text,
        payment_id -> Nullable<Uuid>,
        order_id -> Nullable<Uuid>,
        pg_payment_id -> Nullable<Text>,
        expected -> BigInt,
        found -> BigInt,
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
        runner -> Integer,
        captured -> BigInt,
        cancelled -> BigInt,
        paid -> BigInt,
        difference -> BigInt,
        book_entries -> BigInt,
        payments -> BigInt,
        findings -> BigInt,
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
        amount -> BigInt,
        reason -> Text,
        fingerprint -> Bytea,
        pg_payment_id -> Text,
        stray -> Bool,
        status -> Text,
        pg_code -> Nullable<Text>,
        ask_at -> Nullable<Timestamptz>,
        asked -> Integer,
        created_at -> Timestamptz,
        ended_at -> Nullable<Timestamptz>,
    }
}

diesel::joinable!(payment_attempt -> payments (payment_id));
diesel::joinable!(pending_steps -> payments (payment_id));
diesel::joinable!(reconciliation_findings -> reconciliation_runs (run_id));
diesel::joinable!(refunds -> payments (payment_id));

diesel::allow_tables_to_appear_in_same_query!(
    payment_attempt,
    payments,
    pending_steps,
    point,
    point_entries,
    point_holds,
    point_transfers,
    psp_webhooks,
    reconciliation_findings,
    reconciliation_runs,
    refunds,
);
