//! The data of what only the owner of an account is told.

use contract::events::{PaymentApproved, PaymentFailed, PaymentRefunded, PaymentUnknown};
use contract::ids::OrderId;
use serde::Serialize;
use utoipa::ToSchema;

/// The data of `order.updated`; also in `snapshot`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderNews {
    pub order_id: OrderId,
    /// As `GET /orders/{orderId}` has it.
    #[schema(example = "PAID")]
    pub status: String,
    /// Of the order: news with a lower one are older.
    #[schema(example = 3)]
    pub version: i64,
}

/// The data of `payment.updated`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentNews {
    payment_id: String,
    order_id: String,
    /// `APPROVED`, `FAILED` (an attempt took nothing), `UNKNOWN` (the provider is being asked) or `REFUNDED`.
    #[schema(example = "APPROVED")]
    outcome: &'static str,
    /// Of this attempt or refund.
    amount: i64,
    currency: String,
    /// Why an attempt failed: `PAYMENT_DECLINED` or `PG_ERROR`.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// All refunds so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    refunded_total: Option<i64>,
    /// Of the payment: news with a lower one are older.
    #[schema(example = 3)]
    version: i64,
}

impl PaymentNews {
    pub fn approved(event: &PaymentApproved) -> PaymentNews {
        PaymentNews {
            payment_id: event.payment_id.clone(),
            order_id: event.order_id.clone(),
            outcome: "APPROVED",
            amount: event.amount,
            currency: event.currency.clone(),
            code: None,
            refunded_total: None,
            version: event.version,
        }
    }

    /// The provider's own code is for operators.
    pub fn failed(event: &PaymentFailed) -> PaymentNews {
        PaymentNews {
            payment_id: event.payment_id.clone(),
            order_id: event.order_id.clone(),
            outcome: "FAILED",
            amount: event.amount,
            currency: event.currency.clone(),
            code: Some(event.code.clone()),
            refunded_total: None,
            version: event.version,
        }
    }

    pub fn unknown(event: &PaymentUnknown) -> PaymentNews {
        PaymentNews {
            payment_id: event.payment_id.clone(),
            order_id: event.order_id.clone(),
            outcome: "UNKNOWN",
            amount: event.amount,
            currency: event.currency.clone(),
            code: None,
            refunded_total: None,
            version: event.version,
        }
    }

    /// Why a refund was made is written for operators.
    pub fn refunded(event: &PaymentRefunded) -> PaymentNews {
        PaymentNews {
            payment_id: event.payment_id.clone(),
            order_id: event.order_id.clone(),
            outcome: "REFUNDED",
            amount: event.amount,
            currency: event.currency.clone(),
            code: None,
            refunded_total: Some(event.refunded_total),
            version: event.version,
        }
    }
}

/// The data of `coupon.issued`, `coupon.failed`, `coupon.redeemed` and `coupon.restored`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CouponNews {
    pub coupon_id: String,
    /// The coupon in the hands of this account, as `couponIssueId` of an order names it.
    pub issue_id: String,
    /// The order that has used it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_id: Option<String>,
}
