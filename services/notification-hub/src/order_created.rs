//! The notification that an order has been taken: its data and its e-mail, in Korean and in English.
//!
//! Nobody's language is known, so both are in one text, the Korean one first.

use std::fmt::Write;

use chrono::{DateTime, FixedOffset};
use contract::events::OrderCreated;
use serde_json::{Value, json};

use crate::channel::Mail;

/// Stored in `notifications.type`.
pub const TYPE: &str = "ORDER_CREATED";

/// Korea has one time zone and no summer time.
const KOREA_SECONDS_EAST: i32 = 9 * 3600;

/// What the notification is about, for whoever reads it over the interface.
pub fn data(order: &OrderCreated) -> Value {
    let items = order.items.iter().map(|line| {
        json!({
            "productId": line.product_id,
            "name": line.name,
            "quantity": line.quantity,
            "unitPrice": { "amount": line.unit_price, "currency": order.currency },
        })
    });
    json!({
        "orderId": order.order_id,
        "total": { "amount": order.amount, "currency": order.currency },
        "items": items.collect::<Vec<_>>(),
        "holdExpiresAt": instant(order).map(|instant| instant.to_utc().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)),
    })
}

pub fn mail(order: &OrderCreated) -> Mail {
    let id = &order.order_id;
    let items = items(order);
    let total = money(order.amount, &order.currency);
    let pay_before = instant(order).map(|instant| instant.format("%Y-%m-%d %H:%M:%S").to_string());
    let (pay_before_korean, pay_before_english) = match pay_before {
        Some(time) => (format!("결제 기한: {time} (한국 시간)\n"), format!("Please pay before {time} (Korea time).\n")),
        None => Default::default(),
    };
    Mail {
        subject: format!("[Stampede] 주문이 접수되었습니다 / Your order has been placed ({id})"),
        body: format!(
            "주문해 주셔서 감사합니다.\n\n\
             주문 번호: {id}\n\
             {items}\
             합계: {total}\n\
             {pay_before_korean}\
             기한 안에 결제하지 않으면 주문은 자동으로 취소됩니다.\n\n\
             --\n\n\
             Thank you for your order.\n\n\
             Order: {id}\n\
             {items}\
             Total: {total}\n\
             {pay_before_english}\
             An order that is not paid in time is cancelled by itself.\n"
        ),
    }
}

fn items(order: &OrderCreated) -> String {
    order.items.iter().fold(String::new(), |mut text, line| {
        let price = money(line.unit_price, &order.currency);
        // A String takes everything.
        let _ = writeln!(text, "  - {} x {} ({price})", line.name, line.quantity);
        text
    })
}

fn instant(order: &OrderCreated) -> Option<DateTime<FixedOffset>> {
    let stamp = order.hold_expires_at.as_ref()?;
    let instant = DateTime::from_timestamp(stamp.seconds, u32::try_from(stamp.nanos).ok()?)?;
    Some(instant.with_timezone(&FixedOffset::east_opt(KOREA_SECONDS_EAST)?))
}

/// `KRW 129,000`
fn money(amount: i64, currency: &str) -> String {
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

#[cfg(test)]
mod tests {
    use contract::events::OrderLine;

    use super::*;

    fn order() -> OrderCreated {
        OrderCreated {
            order_id: "018f0000-0000-7000-8000-000000000001".to_owned(),
            user_id: "018f0000-0000-7000-8000-000000000002".to_owned(),
            version: 1,
            items: vec![OrderLine {
                product_id: "p".to_owned(),
                name: "한정판 운동화".to_owned(),
                quantity: 2,
                unit_price: 129_000,
            }],
            amount: 258_000,
            currency: "KRW".to_owned(),
            hold_expires_at: serde_json::from_str("\"2026-11-21T09:10:00Z\"").unwrap(),
            created_at: None,
        }
    }

    #[test]
    fn the_mail_names_the_order_its_lines_its_total_and_when_to_pay() {
        let mail = mail(&order());
        assert!(mail.subject.contains("018f0000-0000-7000-8000-000000000001") && !mail.subject.contains('\n'));
        for part in [
            "한정판 운동화 x 2 (KRW 129,000)",
            "합계: KRW 258,000",
            "Total: KRW 258,000",
            "2026-11-21 18:10:00 (한국 시간)",
        ] {
            assert!(mail.body.contains(part), "{part} is missing in\n{}", mail.body);
        }
        assert!(!mail.body.contains("018f0000-0000-7000-8000-000000000002"), "the account id is nobody's business");
    }

    #[test]
    fn data_keeps_money_as_numbers() {
        let data = data(&order());
        assert_eq!(data["total"], json!({ "amount": 258_000, "currency": "KRW" }));
        assert_eq!(data["items"][0]["quantity"], 2);
        assert_eq!(data["holdExpiresAt"], "2026-11-21T09:10:00.000Z");
    }

    #[test]
    fn money_is_grouped_by_thousands() {
        for (amount, expected) in
            [(0, "KRW 0"), (999, "KRW 999"), (1_000, "KRW 1,000"), (1_234_567, "KRW 1,234,567"), (-1_000, "KRW -1,000")]
        {
            assert_eq!(money(amount, "KRW"), expected);
        }
    }
}
