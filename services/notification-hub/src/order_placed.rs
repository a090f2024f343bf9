//! The notification that an order is paid: the buyer's receipt.

use contract::events::OrderPlaced;
use serde_json::{Value, json};

use crate::channel::{Channel, Message};
use crate::draft::Draft;
use crate::wording::{instant, items, items_data, korean_time, money, money_data, time_data};

pub fn draft(order: &OrderPlaced) -> Option<Draft<'_>> {
    Some(Draft { user_id: Some(&order.user_id), data: data(order), messages: vec![(Channel::Email, receipt(order))] })
}

fn data(order: &OrderPlaced) -> Value {
    json!({
        "orderId": order.order_id,
        "paymentId": order.payment_id,
        "total": money_data(order.amount, &order.currency),
        "items": items_data(&order.items, &order.currency),
        "placedAt": instant(order.placed_at).map(time_data),
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

    #[test]
    fn the_receipt_names_the_order_the_payment_the_lines_and_the_amount() {
        let order = OrderPlaced {
            order_id: "the-order".to_owned(),
            user_id: "the-buyer".to_owned(),
            version: 3,
            payment_id: "the-payment".to_owned(),
            hold_id: "the-order".to_owned(),
            items: vec![OrderLine {
                product_id: "p".to_owned(),
                name: "한정판 운동화".to_owned(),
                quantity: 1,
                unit_price: 129_000,
            }],
            amount: 129_000,
            currency: "KRW".to_owned(),
            placed_at: serde_json::from_str("\"2026-11-21T09:10:00Z\"").unwrap(),
        };
        let draft = draft(&order).unwrap();
        assert_eq!(draft.user_id, Some("the-buyer"));
        let [(Channel::Email, mail)] = &draft.messages[..] else { panic!("an e-mail and nothing else") };
        assert!(!mail.subject.contains('\n'));
        for part in [
            "the-order",
            "the-payment",
            "한정판 운동화 x 1 (KRW 129,000)",
            "결제 금액: KRW 129,000",
            "2026-11-21 18:10:00 (한국 시간)",
        ] {
            assert!(mail.body.contains(part), "{part} is missing in\n{}", mail.body);
        }
        assert_eq!(draft.data["placedAt"], "2026-11-21T09:10:00.000Z");
    }
}
