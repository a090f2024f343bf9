//! Reactions of the stream: which fact is told to whom, and what of it.

use common::inbox::Received;
use common::listener::{Hear, Reception};
use contract::events::{
    CouponIssueFailed, CouponIssued, CouponRedeemed, CouponRestored, EventClosed, EventOpen, EventScheduled,
    EventSoldOut, OrderCancelled, OrderCreated, OrderExpired, OrderPlaced, OrderRefundRequested, OrderRefunded,
    PaymentApproved, PaymentFailed, PaymentRefunded, PaymentUnknown,
};
use serde::Serialize;
use uuid::Uuid;

use super::clients::OwnFact;
use super::own_news::{CouponNews, OrderNews, PaymentNews};
use super::sales::SaleFact;
use super::topics::About;
use crate::App;

/// From the transaction that made a fact true to the moment at which its clients have it in their buffers.
fn measure(when: Reception) {
    if let Some(age) = when.age {
        metrics::histogram!("stampede_stream_lag_seconds").record(age);
    }
}

impl App {
    fn tell_sale(&self, event_id: Uuid, fact: SaleFact<'_>, when: Reception) {
        if self.stream.clients.tell_sale(fact, event_id, when.is_past, when.at) {
            measure(when);
        }
    }

    /// A fact of `user_id`, who alone may have it.
    fn tell_owner<D: Serialize>(&self, user_id: &str, fact: Option<OwnFact<D>>, when: Reception) {
        let (Ok(account), Some(fact)) = (user_id.parse(), fact) else {
            tracing::warn!("A fact of account {user_id:?} has an id that is none; nobody is told over the stream");
            return;
        };
        if !when.is_past && self.stream.clients.tell_owner(account, &fact, when.at) {
            measure(when);
        }
    }

    fn tell_order(&self, event_id: Uuid, user_id: &str, order: (&str, &str, i64), when: Reception) {
        let (order_id, status, version) = order;
        let news = |order_id| OwnFact {
            event_id,
            about: About::Order(order_id),
            kind: "order.updated",
            data: OrderNews { order_id, status: status.to_owned(), version },
        };
        self.tell_owner(user_id, order_id.parse().ok().map(news), when);
    }

    fn tell_payment(&self, event_id: Uuid, user_id: &str, order_id: &str, data: PaymentNews, when: Reception) {
        let news = |order_id| OwnFact { event_id, about: About::Order(order_id), kind: "payment.updated", data };
        self.tell_owner(user_id, order_id.parse().ok().map(news), when);
    }

    fn tell_coupon(&self, event_id: Uuid, user_id: &str, kind: &'static str, data: CouponNews, when: Reception) {
        self.tell_owner(user_id, Some(OwnFact { event_id, about: About::Coupon, kind, data }), when);
    }
}

impl Hear<EventScheduled> for App {
    fn hear(&self, Received { event_id, event, .. }: Received<EventScheduled>, when: Reception) {
        self.tell_sale(event_id, SaleFact::Scheduled(&event), when);
    }
}

impl Hear<EventOpen> for App {
    fn hear(&self, Received { event_id, event, .. }: Received<EventOpen>, when: Reception) {
        self.tell_sale(event_id, SaleFact::Open(&event), when);
    }
}

impl Hear<EventSoldOut> for App {
    fn hear(&self, Received { event_id, event, .. }: Received<EventSoldOut>, when: Reception) {
        self.tell_sale(event_id, SaleFact::SoldOut(&event), when);
    }
}

impl Hear<EventClosed> for App {
    fn hear(&self, Received { event_id, event, .. }: Received<EventClosed>, when: Reception) {
        self.tell_sale(event_id, SaleFact::Closed(&event), when);
    }
}

impl Hear<OrderCreated> for App {
    fn hear(&self, Received { event_id, event, .. }: Received<OrderCreated>, when: Reception) {
        self.tell_order(event_id, &event.user_id, (&event.order_id, "CREATED", event.version), when);
    }
}

impl Hear<OrderPlaced> for App {
    fn hear(&self, Received { event_id, event, .. }: Received<OrderPlaced>, when: Reception) {
        self.tell_order(event_id, &event.user_id, (&event.order_id, "PAID", event.version), when);
    }
}

impl Hear<OrderCancelled> for App {
    fn hear(&self, Received { event_id, event, .. }: Received<OrderCancelled>, when: Reception) {
        self.tell_order(event_id, &event.user_id, (&event.order_id, "CANCELLED", event.version), when);
    }
}

impl Hear<OrderExpired> for App {
    fn hear(&self, Received { event_id, event, .. }: Received<OrderExpired>, when: Reception) {
        self.tell_order(event_id, &event.user_id, (&event.order_id, "EXPIRED", event.version), when);
    }
}

impl Hear<OrderRefundRequested> for App {
    fn hear(&self, Received { event_id, event, .. }: Received<OrderRefundRequested>, when: Reception) {
        self.tell_order(event_id, &event.user_id, (&event.order_id, "REFUND_PENDING", event.version), when);
    }
}

impl Hear<OrderRefunded> for App {
    fn hear(&self, Received { event_id, event, .. }: Received<OrderRefunded>, when: Reception) {
        self.tell_order(event_id, &event.user_id, (&event.order_id, "REFUNDED", event.version), when);
    }
}

impl Hear<PaymentApproved> for App {
    fn hear(&self, Received { event_id, event, .. }: Received<PaymentApproved>, when: Reception) {
        self.tell_payment(event_id, &event.user_id, &event.order_id, PaymentNews::approved(&event), when);
    }
}

impl Hear<PaymentFailed> for App {
    fn hear(&self, Received { event_id, event, .. }: Received<PaymentFailed>, when: Reception) {
        self.tell_payment(event_id, &event.user_id, &event.order_id, PaymentNews::failed(&event), when);
    }
}

impl Hear<PaymentUnknown> for App {
    fn hear(&self, Received { event_id, event, .. }: Received<PaymentUnknown>, when: Reception) {
        self.tell_payment(event_id, &event.user_id, &event.order_id, PaymentNews::unknown(&event), when);
    }
}

impl Hear<PaymentRefunded> for App {
    fn hear(&self, Received { event_id, event, .. }: Received<PaymentRefunded>, when: Reception) {
        self.tell_payment(event_id, &event.user_id, &event.order_id, PaymentNews::refunded(&event), when);
    }
}

impl Hear<CouponIssued> for App {
    fn hear(&self, Received { event_id, event, .. }: Received<CouponIssued>, when: Reception) {
        let CouponIssued { coupon_id, issue_id, user_id, .. } = event;
        self.tell_coupon(event_id, &user_id, "coupon.issued", CouponNews { coupon_id, issue_id, order_id: None }, when);
    }
}

impl Hear<CouponIssueFailed> for App {
    fn hear(&self, Received { event_id, event, .. }: Received<CouponIssueFailed>, when: Reception) {
        let CouponIssueFailed { coupon_id, issue_id, user_id, .. } = event;
        self.tell_coupon(event_id, &user_id, "coupon.failed", CouponNews { coupon_id, issue_id, order_id: None }, when);
    }
}

impl Hear<CouponRedeemed> for App {
    fn hear(&self, Received { event_id, event, .. }: Received<CouponRedeemed>, when: Reception) {
        let CouponRedeemed { coupon_id, issue_id, user_id, order_id, .. } = event;
        let data = CouponNews { coupon_id, issue_id, order_id: Some(order_id) };
        self.tell_coupon(event_id, &user_id, "coupon.redeemed", data, when);
    }
}

impl Hear<CouponRestored> for App {
    fn hear(&self, Received { event_id, event, .. }: Received<CouponRestored>, when: Reception) {
        let CouponRestored { coupon_id, issue_id, user_id, order_id, .. } = event;
        let data = CouponNews { coupon_id, issue_id, order_id: Some(order_id) };
        self.tell_coupon(event_id, &user_id, "coupon.restored", data, when);
    }
}
