//! The tables of schema `inventory`, as Diesel knows them.

diesel::table! {
    catalogue (only_row) {
        only_row -> Bool,
        version -> Int8,
    }
}

diesel::table! {
    hold_lines (hold_id, product_id) {
        hold_id -> Uuid,
        product_id -> Uuid,
        quantity -> Int4,
        unit_price -> Int8,
        currency -> Text,
        sku -> Text,
        name -> Text,
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
        unpinned_by -> Array<Nullable<Uuid>>,
        order_version -> Nullable<Int8>,
        reason -> Nullable<Text>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    product_stock_audit (id) {
        id -> Int8,
        product_id -> Uuid,
        hold_id -> Nullable<Uuid>,
        adjustment_id -> Nullable<Uuid>,
        kind -> Text,
        delta -> Int8,
        on_hand_after -> Int8,
        held_after -> Int8,
        stock_version -> Int8,
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
        price_amount -> Int8,
        currency -> Text,
        max_per_user -> Nullable<Int4>,
        version -> Int8,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    stocks (product_id) {
        product_id -> Uuid,
        on_hand -> Int8,
        held -> Int8,
        version -> Int8,
        restock_round -> Int8,
    }
}

diesel::joinable!(stocks -> products (product_id));

diesel::allow_tables_to_appear_in_same_query!(catalogue, hold_lines, holds, product_stock_audit, products, stocks,);
