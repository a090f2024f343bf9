//! The tables of schema `queue`, made from its migrations; a test compares them.

diesel::table! {
    admissions (id) {
        id -> Uuid,
        event_id -> Uuid,
        count -> Integer,
        fingerprint -> Bytea,
        admitted_by -> Uuid,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    ended_passes (event_id, seq) {
        event_id -> Uuid,
        seq -> BigInt,
        user_id -> Uuid,
        ended_at -> Timestamptz,
    }
}

diesel::table! {
    lobby (event_id, user_id) {
        event_id -> Uuid,
        user_id -> Uuid,
        ticket_id -> Uuid,
        joined_at -> Timestamptz,
        seq -> Nullable<BigInt>,
    }
}

diesel::table! {
    rooms (event_id) {
        event_id -> Uuid,
        epoch -> BigInt,
        reserved_to -> BigInt,
        front -> BigInt,
        issued -> BigInt,
        floor -> BigInt,
        active_seqs -> Array<BigInt>,
        active_until -> Array<BigInt>,
        saved_at -> Nullable<Timestamptz>,
        drawn_at -> Nullable<Timestamptz>,
        drawn -> BigInt,
        offered_seqs -> Array<BigInt>,
        back_seqs -> Array<BigInt>,
        raised_at -> Nullable<Timestamptz>,
        let_in -> BigInt,
    }
}

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

diesel::joinable!(admissions -> sale_events (event_id));
diesel::joinable!(ended_passes -> sale_events (event_id));
diesel::joinable!(lobby -> sale_events (event_id));
diesel::joinable!(rooms -> sale_events (event_id));

diesel::allow_tables_to_appear_in_same_query!(admissions, ended_passes, lobby, rooms, sale_events);
