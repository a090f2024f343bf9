//! The notification that an order has been taken: its data and its e-mail, in Korean and in English.
//!
//! Nobody's language is known, so both are in one text, the Korean one first.

use contract::events::OrderCreated;
use serde_json::{Value, json};

use crate::channel::{Channel, Message};
use crate::draft::Draft;
use crate::wording::{instant, items, items_data, korean_time, money, money_data, time_data};

pub fn draft(order: &OrderCreated) -> Option<Draft<'_>> {
    Some(Draft { user_id: Some(&order.user_id), data: data(order), messages: vec![(Channel::Email, mail(order))] })
}

fn data(order: &OrderCreated) -> Value {
    json!({
        "orderId": order.order_id,
        "total": money_data(order.amount, &order.currency),
        "items": items_data(&order.items, &order.currency),
        "holdExpiresAt": instant(order.hold_expires_at).map(time_data),
    })
}

fn mail(order: &OrderCreated) -> Message {
    let id = &order.order_id;
    let items = items(&order.items, &order.currency);
    let total = money(order.amount, &order.currency);
    let (pay_before_korean, pay_before_english) = match instant(order.hold_expires_at).map(korean_time) {
        Some(time) => (format!("결제 기한: {time} (한국 시간)\n"), format!("Please pay before {time} (Korea time).\n")),
        None => Default::default(),
    };
    Message {
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
}
