//! Rules: what templates can do with a variable beyond what the language has.

use chrono::DateTime;
use minijinja::{Environment, Error, ErrorKind, Value};

use crate::wording::{foreign, korean_time, money};

/// Adds ours, and takes away those that would let a variable into the text as it is.
pub fn add(environment: &mut Environment<'static>) {
    for open in ["safe", "escape", "e"] {
        environment.remove_filter(open);
    }
    environment.add_filter("money", money_filter);
    environment.add_filter("koreantime", korean_time_filter);
    environment.add_filter("oneline", one_line_filter);
}

/// `{ "amount": 129000, "currency": "KRW" }` as `KRW 129,000`.
fn money_filter(value: Value) -> Result<String, Error> {
    let wrong = || Error::new(ErrorKind::InvalidOperation, "money needs an object with amount and currency");
    let amount = value.get_attr("amount")?.as_i64().ok_or_else(wrong)?;
    let currency = value.get_attr("currency")?;
    Ok(money(amount, currency.as_str().ok_or_else(wrong)?))
}

/// A time in UTC as `2026-11-21 18:10:00`, in Korea.
fn korean_time_filter(value: &str) -> Result<String, Error> {
    let time = DateTime::parse_from_rfc3339(value)
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, "koreantime needs a time such as 2026-11-21T09:10:00Z"))?;
    Ok(korean_time(time.to_utc()))
}

/// Text from outside as one line of bounded length.
fn one_line_filter(value: &str) -> String {
    foreign(value)
}
