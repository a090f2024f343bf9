//! What other services are told of an order.

use chrono::{DateTime, Utc};
use contract::events::{OrderCancelled, OrderCreated, OrderLine, OrderPlaced, OrderRefundRequested, OrderRefunded};
use contract::ids::{CouponIssueId, PaymentId};

use crate::order::{Item, Order};

pub fn order_created(order: &Order) -> OrderCreated {
    OrderCreated {
        order_id: order.id.to_string(),
        user_id: order.user_id.to_string(),
        version: order.version,
        items: lines(&order.items),
        amount: order.amount,
        currency: order.currency.clone(),
        hold_expires_at: Some(order.hold_expires_at.into()),
        created_at: Some(order.created_at.into()),
        coupon_issue_id: coupon_issue_id(order),
        discount: order.discount(),
    }
}

pub fn order_placed(order: &Order, now: DateTime<Utc>) -> OrderPlaced {
    OrderPlaced {
        order_id: order.id.to_string(),
        user_id: order.user_id.to_string(),
        version: order.version,
        payment_id: payment_id(order),
        hold_id: order.id.to_string(),
        items: lines(&order.items),
        amount: order.amount,
        currency: order.currency.clone(),
        placed_at: Some(now.into()),
        coupon_issue_id: coupon_issue_id(order),
        discount: order.discount(),
    }
}

pub fn order_cancelled(order: &Order, now: DateTime<Utc>) -> OrderCancelled {
    OrderCancelled {
        order_id: order.id.to_string(),
        user_id: order.user_id.to_string(),
        version: order.version,
        hold_id: order.id.to_string(),
        reason: order.cancel_reason.clone().unwrap_or_default(),
        cancelled_at: Some(now.into()),
        coupon_issue_id: coupon_issue_id(order),
    }
}

pub fn order_refund_requested(order: &Order, now: DateTime<Utc>) -> OrderRefundRequested {
    OrderRefundRequested {
        order_id: order.id.to_string(),
        user_id: order.user_id.to_string(),
        version: order.version,
        payment_id: payment_id(order),
        reason: order.cancel_reason.clone().unwrap_or_default(),
        requested_at: Some(now.into()),
    }
}

pub fn order_refunded(order: &Order, now: DateTime<Utc>) -> OrderRefunded {
    OrderRefunded {
        order_id: order.id.to_string(),
        user_id: order.user_id.to_string(),
        version: order.version,
        payment_id: payment_id(order),
        hold_id: order.id.to_string(),
        amount: order.amount,
        currency: order.currency.clone(),
        refunded_at: Some(now.into()),
        coupon_issue_id: coupon_issue_id(order),
    }
}

fn lines(items: &[Item]) -> Vec<OrderLine> {
    let line = |item: &Item| OrderLine {
        product_id: item.product_id.to_string(),
        name: item.name.clone(),
        quantity: item.quantity,
        unit_price: item.unit_price,
        discount: item.discount,
        seats: item.seats.clone(),
    };
    items.iter().map(line).collect()
}

fn payment_id(order: &Order) -> String {
    order.paid_payment_id.as_ref().map(PaymentId::to_string).unwrap_or_default()
}

fn coupon_issue_id(order: &Order) -> String {
    order.coupon_issue_id.as_ref().map(CouponIssueId::to_string).unwrap_or_default()
}
