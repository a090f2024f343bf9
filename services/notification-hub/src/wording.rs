//! How amounts, times and the lines of an order are written in every message.

use chrono::{DateTime, FixedOffset, SecondsFormat, Utc};
use contract::events::OrderLine;
use serde_json::{Value, json};

/// Korea has one time zone and no summer time.
const KOREA_SECONDS_EAST: i32 = 9 * 3600;

/// More than any code or name that a provider has used so far.
const FOREIGN_CHARS_MAX: usize = 100;

/// `KRW 129,000`
pub fn money(amount: i64, currency: &str) -> String {
    let digits = amount.unsigned_abs().to_string();
    let mut text = String::from(if amount < 0 { "-" } else { "" });
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    format!("{currency} {text}")
}

/// An instant as events carry it.
pub fn instant(stamp: Option<impl TryInto<DateTime<Utc>>>) -> Option<DateTime<Utc>> {
    stamp.and_then(|stamp| stamp.try_into().ok())
}

/// `2026-11-21 18:10:00`, in Korea.
pub fn korean_time(instant: DateTime<Utc>) -> String {
    let korea = FixedOffset::east_opt(KOREA_SECONDS_EAST).expect("nine hours are less than a day");
    instant.with_timezone(&korea).format("%Y-%m-%d %H:%M:%S").to_string()
}

/// Text from outside as one line of bounded length.
pub fn foreign(text: &str) -> String {
    text.chars().take(FOREIGN_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub fn money_data(amount: i64, currency: &str) -> Value {
    json!({ "amount": amount, "currency": currency })
}

pub fn items_data(lines: &[OrderLine], currency: &str) -> Value {
    let lines = lines.iter().map(|line| {
        json!({
            "productId": line.product_id,
            "name": line.name,
            "quantity": line.quantity,
            "unitPrice": money_data(line.unit_price, currency),
            "seats": line.seats,
        })
    });
    lines.collect()
}

pub fn time_data(instant: DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_grouped_by_thousands() {
        for (amount, expected) in
            [(0, "KRW 0"), (999, "KRW 999"), (1_000, "KRW 1,000"), (1_234_567, "KRW 1,234,567"), (-1_000, "KRW -1,000")]
        {
            assert_eq!(money(amount, "KRW"), expected);
        }
    }

    #[test]
    fn text_from_outside_stays_on_its_line_and_is_bounded() {
        assert_eq!(foreign("Fail\r\nBcc: x"), "Fail  Bcc: x");
        assert_eq!(foreign(&"가".repeat(5_000)).chars().count(), FOREIGN_CHARS_MAX);
    }
}
