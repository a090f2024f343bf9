//! The one registry of id kinds, in alphabetical order. It only grows.

use common::Id;
use common::id::Kind;

/// A person or operator who can log in; called user in the database and in events.
pub struct Account;
pub struct ApiKey;
/// A show with numbered seats.
pub struct Concert;
pub struct Coupon;
/// One coupon in the hands of one account.
pub struct CouponIssue;
pub struct Delivery;
pub struct Hold;
pub struct Notification;
pub struct Order;
pub struct Payment;
pub struct PaymentAttempt;
pub struct Product;
pub struct Refund;
/// One restock round of one product.
pub struct RestockRound;
/// A sale with a beginning, and with a waiting room where it needs one.
pub struct SaleEvent;
/// One seat of a concert.
pub struct Seat;
/// One account's place in the waiting room of one sale event.
pub struct Ticket;

impl Kind for Account {
    const NAME: &'static str = "account";
}
impl Kind for ApiKey {
    const NAME: &'static str = "API key";
}
impl Kind for Concert {
    const NAME: &'static str = "concert";
}
impl Kind for Coupon {
    const NAME: &'static str = "coupon";
}
impl Kind for CouponIssue {
    const NAME: &'static str = "coupon issue";
}
impl Kind for Delivery {
    const NAME: &'static str = "delivery";
}
impl Kind for Hold {
    const NAME: &'static str = "hold";
}
impl Kind for Notification {
    const NAME: &'static str = "notification";
}
impl Kind for Order {
    const NAME: &'static str = "order";
}
impl Kind for Payment {
    const NAME: &'static str = "payment";
}
impl Kind for PaymentAttempt {
    const NAME: &'static str = "payment attempt";
}
impl Kind for Product {
    const NAME: &'static str = "product";
}
impl Kind for Refund {
    const NAME: &'static str = "refund";
}
impl Kind for RestockRound {
    const NAME: &'static str = "restock round";
}
impl Kind for SaleEvent {
    const NAME: &'static str = "sale event";
}
impl Kind for Seat {
    const NAME: &'static str = "seat";
}
impl Kind for Ticket {
    const NAME: &'static str = "ticket";
}

pub type AccountId = Id<Account>;
pub type ApiKeyId = Id<ApiKey>;
pub type ConcertId = Id<Concert>;
pub type CouponId = Id<Coupon>;
pub type CouponIssueId = Id<CouponIssue>;
pub type DeliveryId = Id<Delivery>;
pub type HoldId = Id<Hold>;
pub type NotificationId = Id<Notification>;
pub type OrderId = Id<Order>;
pub type PaymentAttemptId = Id<PaymentAttempt>;
pub type PaymentId = Id<Payment>;
pub type ProductId = Id<Product>;
pub type RefundId = Id<Refund>;
pub type RestockRoundId = Id<RestockRound>;
pub type SaleEventId = Id<SaleEvent>;
pub type SeatId = Id<Seat>;
pub type TicketId = Id<Ticket>;
