//! The notification that money went back: an e-mail to the buyer. Why is not said: the reason is written for operators.

use contract::events::PaymentRefunded;
use serde_json::{Value, json};

use crate::channel::{Channel, Message};
use crate::draft::Draft;
use crate::wording::{instant, korean_time, money, money_data, time_data};

pub fn draft(refund: &PaymentRefunded) -> Option<Draft<'_>> {
    Some(Draft { user_id: Some(&refund.user_id), data: data(refund), messages: vec![(Channel::Email, mail(refund))] })
}

fn data(refund: &PaymentRefunded) -> Value {
    json!({
        "orderId": refund.order_id,
        "paymentId": refund.payment_id,
        "refundId": refund.refund_id,
        "amount": money_data(refund.amount, &refund.currency),
        "refundedTotal": money_data(refund.refunded_total, &refund.currency),
        "paid": money_data(refund.captured, &refund.currency),
        "refundedAt": instant(refund.refunded_at).map(time_data),
    })
}

fn mail(refund: &PaymentRefunded) -> Message {
    let PaymentRefunded { order_id, payment_id, currency, .. } = refund;
    let amount = money(refund.amount, currency);
    // One refund of everything needs no sums.
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
        let mail = mail(&refund(129_000, 129_000));
        assert!(mail.body.contains("환불 금액: KRW 129,000"));
        assert!(!mail.body.contains("지금까지"), "{}", mail.body);
        assert!(mail.body.contains("2026-11-21 18:10:00 (한국 시간)"));
    }

    #[test]
    fn a_partial_refund_names_the_sums() {
        let mail = mail(&refund(29_000, 59_000));
        for part in ["환불 금액: KRW 29,000", "지금까지 환불된 금액: KRW 59,000 (결제 금액 KRW 129,000)"]
        {
            assert!(mail.body.contains(part), "{part} is missing in\n{}", mail.body);
        }
        assert!(!mail.body.contains("LATE_APPROVAL"));
    }
}
