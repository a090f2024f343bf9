//! Reactions to orders: an e-mail to the buyer that the order has been taken, and a receipt when it is paid.
//!
//! Nobody's language is known, so every text is in Korean and in English, the Korean one first.

use common::Result;
use common::db::Tx;
use common::inbox::{Handler, Received};
use contract::events::{OrderCreated, OrderPlaced};
use serde_json::json;

use crate::App;
use crate::channel::{Channel, Message};
use crate::create_notifications::Draft;
use crate::wording::{instant, items, items_data, korean_time, money, money_data, time_data};

impl Handler<OrderCreated> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderCreated>]) -> Result<()> {
        self.create_notifications(tx, events, order_created).await
    }
}

impl Handler<OrderPlaced> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderPlaced>]) -> Result<()> {
        self.create_notifications(tx, events, order_placed).await
    }
}

fn order_created(order: &OrderCreated) -> Option<Draft<'_>> {
    Some(Draft {
        user_id: Some(&order.user_id),
        data: json!({
            "orderId": order.order_id,
            "total": money_data(order.amount, &order.currency),
            "items": items_data(&order.items, &order.currency),
            "holdExpiresAt": instant(order.hold_expires_at).map(time_data),
        }),
        messages: vec![(Channel::Email, confirmation(order))],
    })
}

fn confirmation(order: &OrderCreated) -> Message {
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

fn order_placed(order: &OrderPlaced) -> Option<Draft<'_>> {
    Some(Draft {
        user_id: Some(&order.user_id),
        data: json!({
            "orderId": order.order_id,
            "paymentId": order.payment_id,
            "total": money_data(order.amount, &order.currency),
            "items": items_data(&order.items, &order.currency),
            "placedAt": instant(order.placed_at).map(time_data),
        }),
        messages: vec![(Channel::Email, receipt(order))],
    })
}

fn receipt(order: &OrderPlaced) -> Message {
    let OrderPlaced { order_id, payment_id, .. } = order;
    let items = items(&order.items, &order.currency);
    let total = money(order.amount, &order.currency);
    let (paid_at_korean, paid_at_english) = match instant(order.placed_at).map(korean_time) {
        Some(time) => (format!("결제 시각: {time} (한국 시간)\n"), format!("Paid at: {time} (Korea time)\n")),
        None => Default::default(),
    };
    Message {
        subject: format!("[Stampede] 결제가 완료되었습니다 / Your order is paid ({order_id})"),
        body: format!(
            "결제가 완료되어 주문이 확정되었습니다.\n\n\
             주문 번호: {order_id}\n\
             결제 번호: {payment_id}\n\
             {items}\
             결제 금액: {total}\n\
             {paid_at_korean}\n\
             --\n\n\
             Your payment has arrived and your order is confirmed.\n\n\
             Order: {order_id}\n\
             Payment: {payment_id}\n\
             {items}\
             Paid: {total}\n\
             {paid_at_english}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use contract::events::OrderLine;

    use super::*;

    fn lines(quantity: i32) -> Vec<OrderLine> {
        let (product_id, name) = ("p".to_owned(), "한정판 운동화".to_owned());
        vec![OrderLine { product_id, name, quantity, unit_price: 129_000, discount: 0 }]
    }

    fn created() -> OrderCreated {
        OrderCreated {
            order_id: "the-order".to_owned(),
            user_id: "the-buyer".to_owned(),
            version: 1,
            items: lines(2),
            amount: 258_000,
            currency: "KRW".to_owned(),
            hold_expires_at: serde_json::from_str("\"2026-11-21T09:10:00Z\"").unwrap(),
            ..OrderCreated::default()
        }
    }

    fn placed() -> OrderPlaced {
        OrderPlaced {
            order_id: "the-order".to_owned(),
            user_id: "the-buyer".to_owned(),
            version: 3,
            payment_id: "the-payment".to_owned(),
            hold_id: "the-order".to_owned(),
            items: lines(1),
            amount: 129_000,
            currency: "KRW".to_owned(),
            placed_at: serde_json::from_str("\"2026-11-21T09:10:00Z\"").unwrap(),
            ..OrderPlaced::default()
        }
    }

    #[track_caller]
    fn assert_contains(mail: &Message, parts: &[&str]) {
        for part in parts {
            assert!(mail.body.contains(part), "{part} is missing in\n{}", mail.body);
        }
    }

    #[test]
    fn the_confirmation_names_the_order_its_lines_its_total_and_when_to_pay() {
        let mail = confirmation(&created());
        assert!(mail.subject.contains("the-order") && !mail.subject.contains('\n'));
        let lines = ["the-order", "한정판 운동화 x 2 (KRW 129,000)", "합계: KRW 258,000", "Total: KRW 258,000"];
        assert_contains(&mail, &lines);
        assert_contains(&mail, &["2026-11-21 18:10:00 (한국 시간)"]);
        assert!(!mail.body.contains("the-buyer"), "the account id is not for e-mails");
    }

    #[test]
    fn the_receipt_names_the_order_the_payment_the_lines_and_the_amount() {
        let order = placed();
        let draft = order_placed(&order).unwrap();
        assert_eq!(draft.user_id, Some("the-buyer"));
        let [(Channel::Email, mail)] = &draft.messages[..] else { panic!("an e-mail and nothing else") };
        assert!(!mail.subject.contains('\n'));
        let lines = ["the-order", "the-payment", "한정판 운동화 x 1 (KRW 129,000)", "결제 금액: KRW 129,000"];
        assert_contains(mail, &lines);
        assert_contains(mail, &["2026-11-21 18:10:00 (한국 시간)"]);
    }

    #[test]
    fn data_has_money_as_numbers_and_times_in_utc() {
        let (created, placed) = (created(), placed());
        let data = order_created(&created).unwrap().data;
        assert_eq!(data["total"], json!({ "amount": 258_000, "currency": "KRW" }));
        assert_eq!(data["items"][0]["quantity"], 2);
        assert_eq!(data["holdExpiresAt"], "2026-11-21T09:10:00.000Z");
        assert_eq!(order_placed(&placed).unwrap().data["placedAt"], "2026-11-21T09:10:00.000Z");
    }
}
