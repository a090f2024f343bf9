drop table signing_keys;
drop table refresh_tokens;
drop table token_families;
drop table users;
