//! The tables of schema `account`, made from its migrations; a test compares them.

diesel::table! {
    refresh_tokens (hash) {
        hash -> Bytea,
        family -> Uuid,
        user_id -> Uuid,
        issued_at -> Timestamptz,
        expires_at -> Timestamptz,
        used_at -> Nullable<Timestamptz>,
        successor_kid -> Nullable<Text>,
    }
}

diesel::table! {
    signing_keys (kid) {
        kid -> Text,
        public -> Bytea,
        private -> Bytea,
        created_at -> Timestamptz,
        use_at -> Timestamptz,
        retire_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    token_families (id) {
        id -> Uuid,
        user_id -> Uuid,
        created_at -> Timestamptz,
        expires_at -> Timestamptz,
        revoked_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    users (id) {
        id -> Uuid,
        email -> Text,
        name -> Text,
        password_hash -> Text,
        role -> Text,
        created_at -> Timestamptz,
    }
}

diesel::joinable!(refresh_tokens -> token_families (family));
diesel::joinable!(refresh_tokens -> users (user_id));
diesel::joinable!(token_families -> users (user_id));

diesel::allow_tables_to_appear_in_same_query!(refresh_tokens, signing_keys, token_families, users);
