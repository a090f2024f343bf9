//! What Diesel does not know of PostgreSQL: some functions, and enums in columns of their names.

use std::any::type_name;
use std::str::FromStr;

use diesel::deserialize::{self, FromSql};
use diesel::pg::{Pg, PgValue};
use diesel::sql_types::Text;

diesel::define_sql_function! {
    /// The time of the row it is computed for, not of the transaction.
    fn clock_timestamp() -> Timestamptz;
}

/// Reads an enum from a column of its names.
pub fn from_name<T: FromStr>(value: PgValue<'_>) -> deserialize::Result<T> {
    let name = <String as FromSql<Text, Pg>>::from_sql(value)?;
    name.parse().map_err(|_| format!("unknown {}: {name:?}", type_name::<T>()).into())
}
