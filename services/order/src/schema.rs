//! The table of schema `order` that is asked about in many ways, and the clock.

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
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        cancel_reason -> Nullable<Text>,
        first_hold_expires_at -> Timestamptz,
        approving_payment_id -> Nullable<Uuid>,
        approving_attempt_id -> Nullable<Uuid>,
        ended_attempt_ids -> Array<Uuid>,
        paid_payment_id -> Nullable<Uuid>,
        returned_payment_ids -> Array<Uuid>,
    }
}

diesel::define_sql_function! {
    /// The time of the row it is computed for, not of the transaction.
    fn clock_timestamp() -> Timestamptz;
}
