//! The notification that an attempt to pay came to nothing: an e-mail to the customer, an alert to operators.
//!
//! The provider's name and code are for operators alone.

use contract::codes;
use contract::events::PaymentFailed;
use serde_json::{Value, json};

use crate::channel::{Channel, Message};
use crate::draft::Draft;
use crate::wording::{foreign, instant, korean_time, money, money_data, time_data};

pub fn draft(payment: &PaymentFailed) -> Option<Draft<'_>> {
    Some(Draft {
        user_id: Some(&payment.user_id),
        data: data(payment),
        messages: vec![(Channel::Email, mail(payment)), (Channel::Slack, alert(payment))],
    })
}

fn data(payment: &PaymentFailed) -> Value {
    json!({
        "orderId": payment.order_id,
        "paymentId": payment.payment_id,
        "amount": money_data(payment.amount, &payment.currency),
        "code": payment.code,
        "failedAt": instant(payment.failed_at).map(time_data),
    })
}

fn mail(payment: &PaymentFailed) -> Message {
    let PaymentFailed { order_id, .. } = payment;
    let amount = money(payment.amount, &payment.currency);
    let is_declined = codes::PAYMENT_DECLINED.reason == payment.code.as_str();
    let (reason_korean, reason_english) = match is_declined {
        true => (
            "결제사에서 결제를 거절했습니다. 잔액이나 한도를 확인하거나 다른 결제 수단을 이용해 주세요.\n\
             청구된 금액은 없습니다.",
            "The payment was declined. Please check your balance or limit, or pay in another way.\n\
             You have not been charged.",
        ),
        false => (
            "결제사에 일시적인 문제가 있어 결제되지 않았습니다. 잠시 후 다시 시도해 주세요.\n\
             청구된 금액은 없습니다. 승인 내역이 있다면 이미 취소된 것입니다.",
            "The payment provider had a problem and the payment was not made. Please try again in a while.\n\
             You have not been charged: if your statement shows the amount, it has been given back.",
        ),
    };
    Message {
        subject: format!("[Stampede] 결제되지 않았습니다 / Your payment did not go through ({order_id})"),
        body: format!(
            "{reason_korean}\n\n\
             주문 번호: {order_id}\n\
             금액: {amount}\n\
             결제 기한이 남아 있는 주문은 다시 결제할 수 있습니다.\n\n\
             --\n\n\
             {reason_english}\n\n\
             Order: {order_id}\n\
             Amount: {amount}\n\
             As long as the order waits for its payment, you can try again.\n"
        ),
    }
}

fn alert(payment: &PaymentFailed) -> Message {
    let PaymentFailed { order_id, payment_id, attempt_id, user_id, .. } = payment;
    let amount = money(payment.amount, &payment.currency);
    let (code, provider, pg_code) = (foreign(&payment.code), foreign(&payment.provider), foreign(&payment.pg_code));
    let failed_at = match instant(payment.failed_at).map(korean_time) {
        Some(time) => format!("\n시각: {time} (한국 시간)"),
        None => String::new(),
    };
    Message {
        subject: format!("결제 실패: {amount} ({code})"),
        body: format!(
            "주문: {order_id}\n\
             결제: {payment_id}\n\
             시도: {attempt_id}\n\
             고객: {user_id}\n\
             금액: {amount}\n\
             결제사: {provider}, 코드 {pg_code}\
             {failed_at}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(code: &str) -> PaymentFailed {
        PaymentFailed {
            payment_id: "the-payment".to_owned(),
            order_id: "the-order".to_owned(),
            user_id: "the-customer".to_owned(),
            version: 2,
            attempt_id: "the-attempt".to_owned(),
            amount: 129_000,
            currency: "KRW".to_owned(),
            provider: "naverpay".to_owned(),
            code: code.to_owned(),
            pg_code: "NotEnoughAccountBalance".to_owned(),
            failed_at: serde_json::from_str("\"2026-11-21T09:10:00Z\"").unwrap(),
        }
    }

    #[test]
    fn operators_are_told_everything_and_customers_nothing_of_the_provider() {
        let failed = failed("PAYMENT_DECLINED");
        let draft = draft(&failed).unwrap();
        let [(Channel::Email, mail), (Channel::Slack, alert)] = &draft.messages[..] else { panic!("both channels") };
        for part in
            ["the-order", "the-payment", "the-attempt", "the-customer", "KRW 129,000", "NotEnoughAccountBalance"]
        {
            assert!(alert.body.contains(part), "{part} is missing in\n{}", alert.body);
        }
        assert!(mail.body.contains("the-order") && mail.body.contains("KRW 129,000"));
        let customers = format!("{}{}{}", mail.subject, mail.body, draft.data);
        for secret in ["naverpay", "NotEnoughAccountBalance", "the-attempt", "the-customer"] {
            assert!(!customers.contains(secret), "{secret} is no customer's business");
        }
    }

    #[test]
    fn a_declined_customer_is_advised_otherwise_than_one_who_met_a_fault() {
        assert!(mail(&failed("PAYMENT_DECLINED")).body.contains("거절"));
        assert!(mail(&failed("PG_ERROR")).body.contains("일시적인 문제"));
        for code in ["PAYMENT_DECLINED", "PG_ERROR"] {
            assert!(mail(&failed(code)).body.contains("청구된 금액은 없습니다."));
        }
    }

    #[test]
    fn a_code_of_many_lines_stays_on_its_line() {
        let alert = alert(&PaymentFailed { pg_code: "X\n주문: forged".to_owned(), ..failed("PG_ERROR") });
        assert_eq!(alert.body.lines().count(), 7);
    }
}
