//! Reactions to payments: customers learn by e-mail what became of their money; operators learn over Slack where a payment
//! fails, or stays unknown until a person has to look.
//!
//! The provider's name and code are for operators only. Why a refund was made is not said: the reason is written for them.

use common::Result;
use common::db::Tx;
use common::inbox::{Handler, Received};
use contract::events::{PaymentFailed, PaymentRefunded, PaymentUnknown};
use serde_json::json;

use crate::App;
use crate::channel::Channel;
use crate::create_notifications::Draft;
use crate::template::builtin::with;
use crate::wording::{instant, money_data, time_data};

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
    let data = json!({
        "orderId": payment.order_id,
        "paymentId": payment.payment_id,
        "amount": money_data(payment.amount, &payment.currency),
        "code": payment.code,
        "failedAt": instant(payment.failed_at).map(time_data),
    });
    let for_operators = json!({
        "attemptId": payment.attempt_id,
        "userId": payment.user_id,
        "provider": payment.provider,
        "pgCode": payment.pg_code,
    });
    Some(Draft {
        user_id: Some(&payment.user_id),
        messages: vec![(Channel::Email, data.clone()), (Channel::Slack, with(data.clone(), for_operators))],
        data,
    })
}

/// Nothing unless a person has to look: until then payment keeps asking the provider by itself.
fn payment_unknown(payment: &PaymentUnknown) -> Option<Draft<'_>> {
    let data = payment.needs_review.then(|| {
        json!({
            "orderId": payment.order_id,
            "paymentId": payment.payment_id,
            "attemptId": payment.attempt_id,
            "userId": payment.user_id,
            "amount": money_data(payment.amount, &payment.currency),
            "provider": payment.provider,
            "since": instant(payment.since).map(time_data),
        })
    })?;
    Some(Draft { user_id: None, messages: vec![(Channel::Slack, data.clone())], data })
}

fn payment_refunded(refund: &PaymentRefunded) -> Option<Draft<'_>> {
    let data = json!({
        "orderId": refund.order_id,
        "paymentId": refund.payment_id,
        "refundId": refund.refund_id,
        "amount": money_data(refund.amount, &refund.currency),
        "refundedTotal": money_data(refund.refunded_total, &refund.currency),
        "paid": money_data(refund.captured, &refund.currency),
        "refundedAt": instant(refund.refunded_at).map(time_data),
    });
    Some(Draft { user_id: Some(&refund.user_id), messages: vec![(Channel::Email, data.clone())], data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::builtin::tests::{assert_contains, both};

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
        for alert in both("PAYMENT_FAILED", Channel::Slack, alert) {
            let ids = ["the-order", "the-payment", "the-attempt", "the-customer"];
            assert_contains(&alert, &ids);
            assert_contains(&alert, &["KRW 129,000", "NotEnoughAccountBalance", "2026-11-21 18:10:00"]);
        }
        for mail in both("PAYMENT_FAILED", Channel::Email, mail) {
            assert_contains(&mail, &["the-order", "KRW 129,000"]);
        }
        // A text of an administrator has no more than this either.
        let customers = format!("{mail}{}", draft.data);
        for secret in ["naverpay", "NotEnoughAccountBalance", "the-attempt", "the-customer"] {
            assert!(!customers.contains(secret), "{secret} is for operators only");
        }
    }

    #[test]
    fn a_declined_customer_gets_other_advice_than_one_whose_provider_failed() {
        for (code, advice) in [("PAYMENT_DECLINED", "거절"), ("PG_ERROR", "일시적인 문제")] {
            let failed = failed(code);
            let [korean, english] = both("PAYMENT_FAILED", Channel::Email, &payment_failed(&failed).unwrap().data);
            assert_contains(&korean, &[advice, "청구된 금액은 없습니다."]);
            assert_contains(&english, &["You have not been charged"]);
        }
    }

    #[test]
    fn a_code_of_many_lines_stays_on_its_line() {
        let forged = PaymentFailed { pg_code: "X\n주문: forged".to_owned(), ..failed("PG_ERROR") };
        let draft = payment_failed(&forged).unwrap();
        let [alert, _] = both("PAYMENT_FAILED", Channel::Slack, &draft.messages[1].1);
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
        let [(Channel::Slack, variables)] = &draft.messages[..] else { panic!("an alert and nothing else") };
        for alert in both("PAYMENT_UNKNOWN", Channel::Slack, variables) {
            let parts = ["the-order", "the-payment", "the-attempt", "KRW 129,000", "naverpay", "2026-11-20 18:10:00"];
            assert_contains(&alert, &parts);
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
        let refund = refund(129_000, 129_000);
        let [korean, english] = both("PAYMENT_REFUNDED", Channel::Email, &payment_refunded(&refund).unwrap().data);
        assert_contains(&korean, &["환불 금액: KRW 129,000\n환불 시각: 2026-11-21 18:10:00 (한국 시간)\n"]);
        assert_contains(&english, &["Refunded: KRW 129,000\nRefunded at: 2026-11-21 18:10:00"]);
    }

    #[test]
    fn a_partial_refund_names_the_sums() {
        let refund = refund(29_000, 59_000);
        let [korean, english] = both("PAYMENT_REFUNDED", Channel::Email, &payment_refunded(&refund).unwrap().data);
        assert_contains(
            &korean,
            &["환불 금액: KRW 29,000", "지금까지 환불된 금액: KRW 59,000 (결제 금액 KRW 129,000)"],
        );
        assert_contains(&english, &["Refunded so far: KRW 59,000 of KRW 129,000"]);
        assert!(!korean.body.contains("LATE_APPROVAL") && !english.body.contains("LATE_APPROVAL"));
    }
}
