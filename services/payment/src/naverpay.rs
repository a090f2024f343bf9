//! Naver Pay as a provider: capture, refund and history. Every answer is classified here and in `history.rs`.

mod client; // HTTP
mod history;
#[cfg(test)]
mod tests;

use serde::Deserialize;

use crate::provider::{Attempt, CaptureOutcome, Provider, ProviderStatus, RefundOutcome, RefundRequest};
use client::{Answer, NoAnswer, answer};
use history::Row;

pub use client::{NaverPay, Settings};
pub use history::{Entry, HistoryUnreadable, Movement, Of, Page};

const CAPTURE: &str = "naverpay-partner/naverpay/payments/v2.2/apply/payment";
const CANCEL: &str = "naverpay-partner/naverpay/payments/v1/cancel";

/// The name of this provider in our tables, events and paths.
pub const NAME: &str = "naverpay";

#[derive(Deserialize)]
struct CaptureBody {
    detail: Option<Row>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CancelBody {
    payment_id: Option<String>,
}

/// What is to be cancelled at the provider, whether or not it belongs to a payment of ours.
pub struct Cancellation<'a> {
    pub pg_payment_id: &'a str,
    pub merchant_pay_key: &'a str,
    /// In won, of what was captured.
    pub amount: i64,
    pub reason: &'a str,
    /// The idempotency key.
    pub key: &'a str,
}

impl NaverPay {
    /// Refunds a part of a capture, or all of it.
    pub async fn cancel(&self, cancellation: &Cancellation<'_>) -> RefundOutcome {
        let Cancellation { pg_payment_id, merchant_pay_key, amount, reason, key } = cancellation;
        let body = serde_json::json!({
            "paymentId": pg_payment_id,
            "merchantPayKey": merchant_pay_key,
            "cancelAmount": amount,
            "cancelReason": reason,
            // 2: the seller.
            "cancelRequester": "2",
            "taxScopeAmount": amount,
            "taxExScopeAmount": 0,
        });
        match answer::<CancelBody>(self.command(CANCEL, key).json(&body)).await {
            Ok(Answer { code, body, .. }) => match code.as_str() {
                "Success" => match body.and_then(|body| body.payment_id) {
                    Some(other) if other != *pg_payment_id => RefundOutcome::Unknown { code: "MISMATCH".to_owned() },
                    Some(_) | None => RefundOutcome::Refunded,
                },
                "OverRemainAmount" | "AlreadyCanceled" | "InvalidPaymentId" => RefundOutcome::Refused { code },
                _ => RefundOutcome::Unknown { code },
            },
            Err(NoAnswer::NotSent(code) | NoAnswer::Unclear(code)) => RefundOutcome::Unknown { code },
        }
    }
}

impl Provider for NaverPay {
    async fn capture(&self, attempt: &Attempt) -> CaptureOutcome {
        let request = self.command(CAPTURE, &attempt.key).form(&[("paymentId", &attempt.pg_payment_id)]);
        let Answer::<CaptureBody> { code, message, body } = match answer(request).await {
            Ok(answer) => answer,
            Err(NoAnswer::NotSent(message)) => return CaptureOutcome::Failed { code: "NOT_SENT".to_owned(), message },
            Err(NoAnswer::Unclear(message)) => {
                return CaptureOutcome::Unknown { code: "NO_ANSWER".to_owned(), message };
            }
        };
        match code.as_str() {
            "Success" => match body.and_then(|body| body.detail) {
                Some(row) if row.captures(attempt) => CaptureOutcome::Captured,
                _ => {
                    tracing::error!(
                        payment.id = %attempt.payment, attempt.id = %attempt.id,
                        "Payment {}: the provider confirmed another payment, amount or key; the resolver asks what it has \
                         captured", attempt.payment
                    );
                    CaptureOutcome::Unknown {
                        code: "MISMATCH".to_owned(),
                        message: "confirmed something else".to_owned(),
                    }
                }
            },
            // Captured before, under another key. The history says whether it was for this payment.
            "AlreadyComplete" => match self.query_status(attempt).await {
                ProviderStatus::Captured => CaptureOutcome::Captured,
                ProviderStatus::Foreign => CaptureOutcome::Declined { code, message },
                ProviderStatus::Cancelled
                | ProviderStatus::Absent
                | ProviderStatus::WrongAmount { .. }
                | ProviderStatus::Unclear(_) => CaptureOutcome::Unknown { code, message },
            },
            "TimeExpired" | "OwnerAuthFail" | "NotEnoughAccountBalance" | "InvalidPaymentId" | "UserCancel" => {
                CaptureOutcome::Declined { code, message }
            }
            "MaintenanceOngoing" | "InvalidMerchant" => CaptureOutcome::Failed { code, message },
            // AlreadyOnGoing, Fail, and codes that we do not know.
            _ => CaptureOutcome::Unknown { code, message },
        }
    }

    async fn query_status(&self, attempt: &Attempt) -> ProviderStatus {
        match self.rows(&Of::Payment(&attempt.pg_payment_id)).await {
            Ok(rows) => history::status(&rows, attempt),
            Err(HistoryUnreadable(message)) => ProviderStatus::Unclear(message),
        }
    }

    async fn refund(&self, request: &RefundRequest) -> RefundOutcome {
        let cancellation = Cancellation {
            pg_payment_id: &request.pg_payment_id,
            merchant_pay_key: &request.payment.to_string(),
            amount: request.amount,
            reason: &request.reason,
            key: &request.id.to_string(),
        };
        self.cancel(&cancellation).await
    }
}
