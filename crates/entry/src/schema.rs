//! The table that each service which lets buyers in has in its own schema; its migration makes it.

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
