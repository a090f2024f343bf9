//! Functions of PostgreSQL that Diesel does not know.

diesel::define_sql_function! {
    /// The time of the row it is computed for, not of the transaction.
    fn clock_timestamp() -> Timestamptz;
}
