//! The tables of schema `inventory`, made from its migrations; a test compares them.

diesel::table! {
    catalogue (only_row) {
        only_row -> Bool,
        version -> BigInt,
    }
}

diesel::table! {
    concert (concert_id) {
        concert_id -> Uuid,
        title -> Text,
        starts_at -> Timestamptz,
        max_per_user -> Nullable<Integer>,
        created_at -> Timestamptz,
        queue_manage_required -> Bool,
    }
}

diesel::table! {
    hold_lines (hold_id, product_id) {
        hold_id -> Uuid,
        product_id -> Uuid,
        quantity -> Integer,
        unit_price -> BigInt,
        currency -> Text,
        sku -> Text,
        name -> Text,
        seats -> Nullable<Jsonb>,
    }
}

diesel::table! {
    holds (hold_id) {
        hold_id -> Uuid,
        user_id -> Nullable<Uuid>,
        state -> Text,
        expires_at -> Timestamptz,
        pinned_by -> Nullable<Uuid>,
        pinned_late -> Bool,
        unpinned_by -> Array<Uuid>,
        order_version -> Nullable<BigInt>,
        reason -> Nullable<Text>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        concert_id -> Nullable<Uuid>,
        moved_to -> Nullable<Uuid>,
    }
}

diesel::table! {
    product_stock_audit (id) {
        id -> BigInt,
        product_id -> Uuid,
        hold_id -> Nullable<Uuid>,
        adjustment_id -> Nullable<Uuid>,
        kind -> Text,
        delta -> BigInt,
        on_hand_after -> BigInt,
        held_after -> BigInt,
        stock_version -> BigInt,
        reason -> Nullable<Text>,
        reference -> Nullable<Text>,
        actor -> Nullable<Uuid>,
        fingerprint -> Nullable<Bytea>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    products (id) {
        id -> Uuid,
        sku -> Text,
        name -> Text,
        price_amount -> BigInt,
        currency -> Text,
        max_per_user -> Nullable<Integer>,
        version -> BigInt,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        concert_id -> Nullable<Uuid>,
    }
}

diesel::table! {
    queue_bypasses (reservation_id, event_id) {
        reservation_id -> Uuid,
        event_id -> Uuid,
        user_id -> Uuid,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    reservation (seat_id) {
        seat_id -> Uuid,
        hold_id -> Uuid,
        user_id -> Uuid,
        reserved_at -> Timestamptz,
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
    seat (seat_id) {
        seat_id -> Uuid,
        concert_id -> Uuid,
        product_id -> Uuid,
        label -> Text,
        place -> Integer,
    }
}

diesel::table! {
    stocks (product_id) {
        product_id -> Uuid,
        on_hand -> BigInt,
        held -> BigInt,
        version -> BigInt,
        restock_round -> BigInt,
    }
}

diesel::joinable!(products -> concert (concert_id));
diesel::joinable!(reservation -> seat (seat_id));
diesel::joinable!(seat -> concert (concert_id));
diesel::joinable!(seat -> products (product_id));
diesel::joinable!(stocks -> products (product_id));

diesel::allow_tables_to_appear_in_same_query!(
    catalogue,
    concert,
    hold_lines,
    holds,
    product_stock_audit,
    products,
    queue_bypasses,
    reservation,
    sale_events,
    seat,
    stocks,
);
