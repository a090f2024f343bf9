//! Reactions to orders: an e-mail to the buyer that the order has been taken, and a receipt when it is paid.

use common::Result;
use common::db::Tx;
use common::inbox::{Handler, Received};
use contract::events::{OrderCreated, OrderPlaced};
use serde_json::json;

use crate::App;
use crate::channel::Channel;
use crate::create_notifications::Draft;
use crate::wording::{instant, items_data, money_data, time_data};

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
    let data = json!({
        "orderId": order.order_id,
        "total": money_data(order.amount, &order.currency),
        "items": items_data(&order.items, &order.currency),
        "holdExpiresAt": instant(order.hold_expires_at).map(time_data),
    });
    Some(Draft { user_id: Some(&order.user_id), messages: vec![(Channel::Email, data.clone())], data })
}

fn order_placed(order: &OrderPlaced) -> Option<Draft<'_>> {
    let data = json!({
        "orderId": order.order_id,
        "paymentId": order.payment_id,
        "total": money_data(order.amount, &order.currency),
        "items": items_data(&order.items, &order.currency),
        "placedAt": instant(order.placed_at).map(time_data),
    });
    Some(Draft { user_id: Some(&order.user_id), messages: vec![(Channel::Email, data.clone())], data })
}

#[cfg(test)]
mod tests {
    use contract::events::OrderLine;

    use super::*;
    use crate::template::builtin::tests::{assert_contains, both};

    fn lines(quantity: i32) -> Vec<OrderLine> {
        let (product_id, name) = ("p".to_owned(), "한정판 운동화".to_owned());
        vec![OrderLine { product_id, name, quantity, unit_price: 129_000, discount: 0, seats: Vec::new() }]
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

    #[test]
    fn the_confirmation_names_the_order_its_lines_its_total_and_when_to_pay() {
        let order = created();
        let draft = order_created(&order).unwrap();
        let [(Channel::Email, variables)] = &draft.messages[..] else { panic!("an e-mail and nothing else") };
        let [korean, english] = both("ORDER_CREATED", Channel::Email, variables);
        assert_contains(&korean, &["(the-order)", "주문 번호: the-order", "한정판 운동화 x 2 (KRW 129,000)"]);
        assert_contains(&korean, &["합계: KRW 258,000\n결제 기한: 2026-11-21 18:10:00 (한국 시간)\n"]);
        assert_contains(&english, &["Order: the-order\n  - 한정판 운동화 x 2 (KRW 129,000)\nTotal: KRW 258,000\n"]);
        assert_contains(&english, &["Please pay before 2026-11-21 18:10:00 (Korea time).\nAn order"]);
        assert!(!korean.body.contains("the-buyer"), "the account id is not for e-mails");
    }

    #[test]
    fn the_receipt_names_the_order_the_payment_the_lines_and_the_amount() {
        let order = placed();
        let draft = order_placed(&order).unwrap();
        assert_eq!(draft.user_id, Some("the-buyer"));
        let [(Channel::Email, variables)] = &draft.messages[..] else { panic!("an e-mail and nothing else") };
        let [korean, english] = both("ORDER_PLACED", Channel::Email, variables);
        assert_contains(
            &korean,
            &["the-order", "the-payment", "한정판 운동화 x 1 (KRW 129,000)", "결제 금액: KRW 129,000"],
        );
        assert_contains(&korean, &["결제 시각: 2026-11-21 18:10:00 (한국 시간)"]);
        assert_contains(&english, &["Payment: the-payment", "Paid: KRW 129,000\nPaid at: 2026-11-21 18:10:00"]);
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
