//! Reactions to payments: customers learn by e-mail what became of their money; operators learn over Slack where a payment
//! fails, or stays unknown until a person has to look.
//!
//! The provider's name and code are for operators only. Why a refund was made is not said: the reason is written for them.

use common::Result;
use common::db::Tx;
use common::inbox::{Handler, Received};
use contract::codes;
use contract::events::{PaymentFailed, PaymentRefunded, PaymentUnknown};
use serde_json::json;

use crate::App;
use crate::channel::{Channel, Message};
use crate::create_notifications::Draft;
use crate::wording::{foreign, instant, korean_time, money, money_data, time_data};

impl Handler<PaymentFailed> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<PaymentFailed>]) -> Result<()> {
        self.create_notifications(tx, events, payment_failed).await
    }
}

impl Handler<PaymentUnknown> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<PaymentUnknown>]) -> Result<()> {
        self.create_notifications(tx, events, payment_unknown).await
    }
}

impl Handler<PaymentRefunded> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<PaymentRefunded>]) -> Result<()> {
        self.create_notifications(tx, events, payment_refunded).await
    }
}

fn payment_failed(payment: &PaymentFailed) -> Option<Draft<'_>> {
    Some(Draft {
        user_id: Some(&payment.user_id),
        data: json!({
            "orderId": payment.order_id,
            "paymentId": payment.payment_id,
            "amount": money_data(payment.amount, &payment.currency),
            "code": payment.code,
            "failedAt": instant(payment.failed_at).map(time_data),
        }),
        messages: vec![(Channel::Email, failure_mail(payment)), (Channel::Slack, failure_alert(payment))],
    })
}

fn failure_mail(payment: &PaymentFailed) -> Message {
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

fn failure_alert(payment: &PaymentFailed) -> Message {
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

/// Nothing unless a person has to look: until then payment keeps asking the provider by itself.
fn payment_unknown(payment: &PaymentUnknown) -> Option<Draft<'_>> {
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
        messages: vec![(Channel::Slack, unknown_alert(payment))],
    })
}

fn unknown_alert(payment: &PaymentUnknown) -> Message {
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

fn payment_refunded(refund: &PaymentRefunded) -> Option<Draft<'_>> {
    Some(Draft {
        user_id: Some(&refund.user_id),
        data: json!({
            "orderId": refund.order_id,
            "paymentId": refund.payment_id,
            "refundId": refund.refund_id,
            "amount": money_data(refund.amount, &refund.currency),
            "refundedTotal": money_data(refund.refunded_total, &refund.currency),
            "paid": money_data(refund.captured, &refund.currency),
            "refundedAt": instant(refund.refunded_at).map(time_data),
        }),
        messages: vec![(Channel::Email, refund_mail(refund))],
    })
}

fn refund_mail(refund: &PaymentRefunded) -> Message {
    let PaymentRefunded { order_id, payment_id, currency, .. } = refund;
    let amount = money(refund.amount, currency);
    // A refund of everything needs no sums.
    let (sums_korean, sums_english) = if refund.amount == refund.captured {
        Default::default()
    } else {
        let (total, paid) = (money(refund.refunded_total, currency), money(refund.captured, currency));
        (format!("지금까지 환불된 금액: {total} (결제 금액 {paid})\n"), format!("Refunded so far: {total} of {paid}\n"))
    };
    let (refunded_at_korean, refunded_at_english) = match instant(refund.refunded_at).map(korean_time) {
        Some(time) => (format!("환불 시각: {time} (한국 시간)\n"), format!("Refunded at: {time} (Korea time)\n")),
        None => Default::default(),
    };
    Message {
        subject: format!("[Stampede] 환불되었습니다 / You have been refunded ({order_id})"),
        body: format!(
            "결제하신 금액이 환불되었습니다.\n\n\
             주문 번호: {order_id}\n\
             결제 번호: {payment_id}\n\
             환불 금액: {amount}\n\
             {sums_korean}\
             {refunded_at_korean}\
             결제 수단에 따라 며칠 뒤에 입금될 수 있습니다.\n\n\
             --\n\n\
             Your payment has been refunded.\n\n\
             Order: {order_id}\n\
             Payment: {payment_id}\n\
             Refunded: {amount}\n\
             {sums_english}\
             {refunded_at_english}\
             Depending on how you paid, it may take some days to arrive.\n"
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
        let draft = payment_failed(&failed).unwrap();
        let [(Channel::Email, mail), (Channel::Slack, alert)] = &draft.messages[..] else { panic!("both channels") };
        for part in
            ["the-order", "the-payment", "the-attempt", "the-customer", "KRW 129,000", "NotEnoughAccountBalance"]
        {
            assert!(alert.body.contains(part), "{part} is missing in\n{}", alert.body);
        }
        assert!(mail.body.contains("the-order") && mail.body.contains("KRW 129,000"));
        let customers = format!("{}{}{}", mail.subject, mail.body, draft.data);
        for secret in ["naverpay", "NotEnoughAccountBalance", "the-attempt", "the-customer"] {
            assert!(!customers.contains(secret), "{secret} is for operators only");
        }
    }

    #[test]
    fn a_declined_customer_gets_other_advice_than_one_whose_provider_failed() {
        assert!(failure_mail(&failed("PAYMENT_DECLINED")).body.contains("거절"));
        assert!(failure_mail(&failed("PG_ERROR")).body.contains("일시적인 문제"));
        for code in ["PAYMENT_DECLINED", "PG_ERROR"] {
            assert!(failure_mail(&failed(code)).body.contains("청구된 금액은 없습니다."));
        }
    }

    #[test]
    fn a_code_of_many_lines_stays_on_its_line() {
        let alert = failure_alert(&PaymentFailed { pg_code: "X\n주문: forged".to_owned(), ..failed("PG_ERROR") });
        assert_eq!(alert.body.lines().count(), 7);
    }

    #[test]
    fn operators_are_alerted_of_an_unknown_payment_only_when_a_person_has_to_look() {
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
        assert!(payment_unknown(&unknown).is_none());
        let overdue = PaymentUnknown { needs_review: true, ..unknown };
        let draft = payment_unknown(&overdue).unwrap();
        assert_eq!(draft.user_id, None, "customers are told nothing that they cannot act on");
        let [(Channel::Slack, alert)] = &draft.messages[..] else { panic!("an alert and nothing else") };
        for part in ["the-order", "the-payment", "the-attempt", "KRW 129,000", "naverpay", "2026-11-20 18:10:00"] {
            assert!(alert.body.contains(part), "{part} is missing in\n{}", alert.body);
        }
    }

    fn refund(amount: i64, refunded_total: i64) -> PaymentRefunded {
        PaymentRefunded {
            payment_id: "the-payment".to_owned(),
            order_id: "the-order".to_owned(),
            user_id: "the-buyer".to_owned(),
            version: 5,
            refund_id: "the-refund".to_owned(),
            amount,
            refunded_total,
            captured: 129_000,
            currency: "KRW".to_owned(),
            reason: "LATE_APPROVAL".to_owned(),
            refunded_at: serde_json::from_str("\"2026-11-21T09:10:00Z\"").unwrap(),
        }
    }

    #[test]
    fn a_full_refund_names_one_amount() {
        let mail = refund_mail(&refund(129_000, 129_000));
        assert!(mail.body.contains("환불 금액: KRW 129,000"));
        assert!(!mail.body.contains("지금까지"), "{}", mail.body);
        assert!(mail.body.contains("2026-11-21 18:10:00 (한국 시간)"));
    }

    #[test]
    fn a_partial_refund_names_the_sums() {
        let mail = refund_mail(&refund(29_000, 59_000));
        for part in ["환불 금액: KRW 29,000", "지금까지 환불된 금액: KRW 59,000 (결제 금액 KRW 129,000)"]
        {
            assert!(mail.body.contains(part), "{part} is missing in\n{}", mail.body);
        }
        assert!(!mail.body.contains("LATE_APPROVAL"));
    }
}
