//! The alert that a payment's outcome is still unknown after a day and a person has to look. For operators alone.

use contract::events::PaymentUnknown;
use serde_json::json;

use crate::channel::{Channel, Message};
use crate::draft::Draft;
use crate::wording::{foreign, instant, korean_time, money, money_data, time_data};

/// Nothing unless a person has to look: the resolver asks the provider by itself.
pub fn draft(payment: &PaymentUnknown) -> Option<Draft<'_>> {
    payment.needs_review.then(|| Draft {
        user_id: None,
        data: json!({
            "orderId": payment.order_id,
            "paymentId": payment.payment_id,
            "attemptId": payment.attempt_id,
            "userId": payment.user_id,
            "amount": money_data(payment.amount, &payment.currency),
            "provider": payment.provider,
            "since": instant(payment.since).map(time_data),
        }),
        messages: vec![(Channel::Slack, alert(payment))],
    })
}

fn alert(payment: &PaymentUnknown) -> Message {
    let PaymentUnknown { order_id, payment_id, attempt_id, user_id, .. } = payment;
    let amount = money(payment.amount, &payment.currency);
    let provider = foreign(&payment.provider);
    let since = match instant(payment.since).map(korean_time) {
        Some(time) => format!("\n시작: {time} (한국 시간)"),
        None => String::new(),
    };
    Message {
        subject: format!("결제 확인 필요: {amount}"),
        body: format!(
            "결제 결과를 아직 알 수 없습니다. 결제사의 관리 화면에서 확인해 주세요.\n\
             주문: {order_id}\n\
             결제: {payment_id}\n\
             시도: {attempt_id}\n\
             고객: {user_id}\n\
             금액: {amount}\n\
             결제사: {provider}\
             {since}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_hear_of_it_once_a_person_has_to_look_and_not_before() {
        let unknown = PaymentUnknown {
            payment_id: "the-payment".to_owned(),
            order_id: "the-order".to_owned(),
            user_id: "the-customer".to_owned(),
            version: 2,
            attempt_id: "the-attempt".to_owned(),
            amount: 129_000,
            currency: "KRW".to_owned(),
            provider: "naverpay".to_owned(),
            needs_review: false,
            since: serde_json::from_str("\"2026-11-20T09:10:00Z\"").unwrap(),
        };
        assert!(draft(&unknown).is_none());
        let overdue = PaymentUnknown { needs_review: true, ..unknown };
        let draft = draft(&overdue).unwrap();
        assert_eq!(draft.user_id, None, "customers would only be frightened");
        let [(Channel::Slack, alert)] = &draft.messages[..] else { panic!("an alert and nothing else") };
        for part in ["the-order", "the-payment", "the-attempt", "KRW 129,000", "naverpay", "2026-11-20 18:10:00"] {
            assert!(alert.body.contains(part), "{part} is missing in\n{}", alert.body);
        }
    }
}
