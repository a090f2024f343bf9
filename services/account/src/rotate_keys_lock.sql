-- Lets one replica at a time look at the signing keys and make the next one. Until the transaction ends.
select pg_advisory_xact_lock(hashtextextended(current_schema() || '.signing_keys', 0))
