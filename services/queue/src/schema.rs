//! The tables of schema `queue`, made from its migrations; a test compares them.

diesel::table! {
    sale_events (id) {
        id -> Uuid,
        name -> Text,
        status -> Text,
        sold_out -> Nullable<Text>,
        opens_at -> Timestamptz,
        closes_at -> Nullable<Timestamptz>,
        prequeue_at -> Nullable<Timestamptz>,
        opened_at -> Nullable<Timestamptz>,
        closed_at -> Nullable<Timestamptz>,
        product_ids -> Array<Uuid>,
        queue_manage_required -> Bool,
        max_active -> Integer,
        rate_per_minute -> Integer,
        session_seconds -> Integer,
        claim_seconds -> Integer,
        waiting_max -> BigInt,
        verify_offline -> Bool,
        closed_on_outage -> Bool,
        mode -> Text,
        pass_public_key -> Bytea,
        pass_private_key -> Bytea,
        draw_seed -> Bytea,
        fingerprint -> Bytea,
        version -> BigInt,
        created_by -> Uuid,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}
