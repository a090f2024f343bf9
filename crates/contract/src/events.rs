//! The events: for each its topic, key and version. The topic's name is the event's name.

use common::outbox::Event;

pub use crate::packages::events::{
    CouponIssueFailed, CouponIssued, CouponRedeemed, CouponRestored, EventClosed, EventOpen, EventScheduled,
    EventSoldOut, NotificationRequested, OrderCancelled, OrderCreated, OrderExpired, OrderLine, OrderPlaced,
    OrderRefundRequested, OrderRefunded, PaymentApproved, PaymentFailed, PaymentRefunded, PaymentUnknown, SaleRules,
    StockDepleted, StockReplenished,
};

impl Event for OrderCreated {
    const TOPIC: &'static str = "ORDER_CREATED";
    const AGGREGATE: &'static str = "order";

    fn key(&self) -> &str {
        &self.order_id
    }

    fn version(&self) -> i64 {
        self.version
    }
}

impl Event for OrderCancelled {
    const TOPIC: &'static str = "ORDER_CANCELLED";
    const AGGREGATE: &'static str = "order";

    fn key(&self) -> &str {
        &self.order_id
    }

    fn version(&self) -> i64 {
        self.version
    }
}

impl Event for OrderExpired {
    const TOPIC: &'static str = "ORDER_EXPIRED";
    const AGGREGATE: &'static str = "order";

    fn key(&self) -> &str {
        &self.order_id
    }

    fn version(&self) -> i64 {
        self.version
    }
}

impl Event for OrderPlaced {
    const TOPIC: &'static str = "ORDER_PLACED";
    const AGGREGATE: &'static str = "order";

    fn key(&self) -> &str {
        &self.order_id
    }

    fn version(&self) -> i64 {
        self.version
    }
}

impl Event for OrderRefundRequested {
    const TOPIC: &'static str = "ORDER_REFUND_REQUESTED";
    const AGGREGATE: &'static str = "order";

    fn key(&self) -> &str {
        &self.order_id
    }

    fn version(&self) -> i64 {
        self.version
    }
}

impl Event for OrderRefunded {
    const TOPIC: &'static str = "ORDER_REFUNDED";
    const AGGREGATE: &'static str = "order";

    fn key(&self) -> &str {
        &self.order_id
    }

    fn version(&self) -> i64 {
        self.version
    }
}

impl Event for PaymentApproved {
    const TOPIC: &'static str = "PAYMENT_APPROVED";
    const AGGREGATE: &'static str = "payment";

    fn key(&self) -> &str {
        &self.payment_id
    }

    fn version(&self) -> i64 {
        self.version
    }
}

impl Event for PaymentFailed {
    const TOPIC: &'static str = "PAYMENT_FAILED";
    const AGGREGATE: &'static str = "payment";

    fn key(&self) -> &str {
        &self.payment_id
    }

    fn version(&self) -> i64 {
        self.version
    }
}

impl Event for PaymentUnknown {
    const TOPIC: &'static str = "PAYMENT_UNKNOWN";
    const AGGREGATE: &'static str = "payment";

    fn key(&self) -> &str {
        &self.payment_id
    }

    fn version(&self) -> i64 {
        self.version
    }
}

impl Event for PaymentRefunded {
    const TOPIC: &'static str = "PAYMENT_REFUNDED";
    const AGGREGATE: &'static str = "payment";

    fn key(&self) -> &str {
        &self.payment_id
    }

    fn version(&self) -> i64 {
        self.version
    }
}

impl Event for StockDepleted {
    const TOPIC: &'static str = "STOCK_DEPLETED";
    const AGGREGATE: &'static str = "stock";

    fn key(&self) -> &str {
        &self.product_id
    }

    fn version(&self) -> i64 {
        self.stock_version
    }
}

impl Event for StockReplenished {
    const TOPIC: &'static str = "STOCK_REPLENISHED";
    const AGGREGATE: &'static str = "stock";

    fn key(&self) -> &str {
        &self.product_id
    }

    fn version(&self) -> i64 {
        self.stock_version
    }
}

impl Event for NotificationRequested {
    const TOPIC: &'static str = "NOTIFICATION_REQUESTED";
    const AGGREGATE: &'static str = "notification";

    fn key(&self) -> &str {
        &self.event_id
    }

    fn version(&self) -> i64 {
        1
    }
}

/// Every topic there is: created at start-up where the broker does not create them by itself.
pub const TOPICS: [&str; 21] = [
    CouponIssueFailed::TOPIC,
    CouponIssued::TOPIC,
    CouponRedeemed::TOPIC,
    CouponRestored::TOPIC,
    EventScheduled::TOPIC,
    EventOpen::TOPIC,
    EventClosed::TOPIC,
    EventSoldOut::TOPIC,
    NotificationRequested::TOPIC,
    OrderCreated::TOPIC,
    OrderCancelled::TOPIC,
    OrderExpired::TOPIC,
    OrderPlaced::TOPIC,
    OrderRefundRequested::TOPIC,
    OrderRefunded::TOPIC,
    PaymentApproved::TOPIC,
    PaymentFailed::TOPIC,
    PaymentRefunded::TOPIC,
    PaymentUnknown::TOPIC,
    StockDepleted::TOPIC,
    StockReplenished::TOPIC,
];

/// Topics that no service of ours writes: whoever has something to tell does.
pub const TOPICS_OF_ANYBODY: [&str; 1] = [NotificationRequested::TOPIC];

impl Event for CouponIssued {
    const TOPIC: &'static str = "COUPON_ISSUED";
    const AGGREGATE: &'static str = "coupon";

    fn key(&self) -> &str {
        &self.coupon_and_user
    }

    fn version(&self) -> i64 {
        1
    }
}

impl Event for CouponIssueFailed {
    const TOPIC: &'static str = "COUPON_ISSUE_FAILED";
    const AGGREGATE: &'static str = "coupon";

    fn key(&self) -> &str {
        &self.issue_id
    }

    fn version(&self) -> i64 {
        1
    }
}

impl Event for CouponRedeemed {
    const TOPIC: &'static str = "COUPON_REDEEMED";
    const AGGREGATE: &'static str = "coupon";

    fn key(&self) -> &str {
        &self.issue_id
    }

    fn version(&self) -> i64 {
        self.version
    }
}

impl Event for CouponRestored {
    const TOPIC: &'static str = "COUPON_RESTORED";
    const AGGREGATE: &'static str = "coupon";

    fn key(&self) -> &str {
        &self.issue_id
    }

    fn version(&self) -> i64 {
        self.version
    }
}

/// `soldOut` of an `EVENT_SCHEDULED` while there is something to sell.
pub const NOT_SOLD_OUT: &str = "NONE";

impl Event for EventScheduled {
    const TOPIC: &'static str = "EVENT_SCHEDULED";
    const AGGREGATE: &'static str = "sale_event";

    fn key(&self) -> &str {
        &self.event_id
    }

    fn version(&self) -> i64 {
        self.version
    }
}

impl Event for EventOpen {
    const TOPIC: &'static str = "EVENT_OPEN";
    const AGGREGATE: &'static str = "sale_event";

    fn key(&self) -> &str {
        &self.event_id
    }

    fn version(&self) -> i64 {
        self.version
    }
}

impl Event for EventClosed {
    const TOPIC: &'static str = "EVENT_CLOSED";
    const AGGREGATE: &'static str = "sale_event";

    fn key(&self) -> &str {
        &self.event_id
    }

    fn version(&self) -> i64 {
        self.version
    }
}

impl Event for EventSoldOut {
    const TOPIC: &'static str = "EVENT_SOLD_OUT";
    const AGGREGATE: &'static str = "sale_event";

    fn key(&self) -> &str {
        &self.event_id
    }

    fn version(&self) -> i64 {
        self.version
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_a_newer_producer_added_does_not_stop_an_older_consumer() {
        let event = r#"{"orderId":"o","version":"3","giftWrap":{"paper":"red"},"userId":"u"}"#;
        let OrderCancelled { order_id, version, user_id, .. } = serde_json::from_str(event).unwrap();
        assert_eq!((order_id.as_str(), version, user_id.as_str()), ("o", 3, "u"));
    }
}
