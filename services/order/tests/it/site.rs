//! `OrderSite`: an order service of its own for each test, with a [`FakeInventory`] and a [`FakeCoupon`].

use std::ops::Deref;
use std::time::Duration;

use chrono::{DateTime, Utc};
use common::Error;
use common::rpc::Upstream;
use contract::coupon::coupon_service_server::CouponServiceServer;
use contract::events::PaymentRefunded;
use contract::inventory::inventory_service_server::InventoryServiceServer;
use contract::money::KRW;
use contract::order::order_service_client::OrderServiceClient;
use contract::order::{
    BeginApprovalRequest, BeginPaymentRequest, EndApprovalRequest, GetOrderRequest, MarkPaidRequest, Order,
};
use serde_json::{Value, json};
use testkit::{Answer, Builder, Client, PATIENT, Product, Site, fresh_key, text};
use uuid::Uuid;

use crate::coupon::FakeCoupon;
use crate::inventory::{FakeInventory, UNIT_PRICE};

/// What every order here costs: it is for two units.
pub const AMOUNT: i64 = 2 * UNIT_PRICE;

/// Settings: the sweep runs once, at the start of the process.
pub const NO_SWEEP: [(&str, &str); 1] = [("order.expire_sweep_ms", "3600000")];
/// Settings: the sweep looks for orders whose time is up all the time.
pub const SWEEP: [(&str, &str); 1] = [("order.expire_sweep_ms", "10")];

/// Much longer than any step takes on a busy machine, and short enough to wait for where a promise is broken.
const SOON: Duration = Duration::from_secs(20);

/// Waits for a step of a test. Fails with `promise` if it is not done after [`SOON`].
pub async fn soon<T>(promise: &str, step: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, step).await.unwrap_or_else(|_| panic!("broken: {promise}"))
}

pub struct OrderSite {
    site: Site,
    pub inventory: FakeInventory,
    pub coupon: FakeCoupon,
    pub rpc: OrderServiceClient<Upstream>,
}

impl Deref for OrderSite {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

/// An order that was placed here.
#[derive(Debug, Clone)]
pub struct Placed {
    pub id: String,
    pub buyer: Client,
}

impl OrderSite {
    /// No sweep runs: an order whose time is up stays as it is stored.
    pub async fn start() -> OrderSite {
        Self::start_with(&NO_SWEEP).await
    }

    pub async fn start_with(settings: &[(&str, &str)]) -> OrderSite {
        let (inventory, coupon) = (FakeInventory::default(), FakeCoupon::default());
        Self::new(builder(&inventory, &coupon).settings(settings).start().await, inventory, coupon)
    }

    /// Beside what the test adds to the host.
    pub async fn start_beside(settings: &[(&str, &str)], mount: impl FnOnce(&mut common::Host) + 'static) -> OrderSite {
        let (inventory, coupon) = (FakeInventory::default(), FakeCoupon::default());
        let builder = builder(&inventory, &coupon).settings(&NO_SWEEP).settings(settings).with(mount);
        Self::new(builder.start().await, inventory, coupon)
    }

    /// A second process of the same service, with the same database, inventory and coupons.
    pub async fn replica(&self, settings: &[(&str, &str)]) -> OrderSite {
        let (inventory, coupon) = (self.inventory.clone(), self.coupon.clone());
        let builder = builder(&inventory, &coupon).settings(settings).namespace(self.namespace());
        Self::new(builder.start().await, inventory, coupon)
    }

    fn new(site: Site, inventory: FakeInventory, coupon: FakeCoupon) -> OrderSite {
        let rpc = OrderServiceClient::new(site.upstream("order"));
        OrderSite { site, inventory, coupon, rpc }
    }

    /// Runs `first` until it waits at `point`, which lies just before a commit. Then runs `second` until it waits for what
    /// `first` has locked, and lets both go on.
    pub async fn overlapping<A, B>(
        &self,
        point: &str,
        first: impl Future<Output = A>,
        second: impl Future<Output = B>,
    ) -> (A, B) {
        let mut paused = self.pause("order", point);
        let second = async {
            soon("the first request writes its change", paused.reached()).await;
            let go_on = async {
                soon("the second request waits for the first", self.until_blocked("order", 1)).await;
                paused.resume();
            };
            tokio::join!(second, go_on).0
        };
        soon("both requests end", async { tokio::join!(first, second) }).await
    }

    // --- HTTP

    /// Places an order of two sneakers.
    pub async fn place(&self, buyer: &Client, key: &str) -> Answer {
        self.user_of(buyer).order(key, &sneaker(), 2).await
    }

    /// An order of somebody new.
    pub async fn order(&self) -> Placed {
        self.order_of(&self.buyer().await).await
    }

    pub async fn order_of(&self, buyer: &Client) -> Placed {
        let placed = self.place(buyer, &fresh_key()).await.expect(201).json();
        Placed { id: text(&placed["orderId"]), buyer: buyer.clone() }
    }

    pub async fn read(&self, order: &Placed) -> Value {
        order.buyer.get(&format!("/orders/{}", order.id)).await.expect(200).json()
    }

    /// The ids of the buyer's orders of this status.
    pub async fn listed(&self, buyer: &Client, status: &str) -> Vec<String> {
        let page = buyer.get(&format!("/orders?status={status}")).await.expect(200).json();
        page["items"].as_array().expect("a list").iter().map(|order| text(&order["orderId"])).collect()
    }

    pub async fn cancel(&self, order: &Placed) -> Answer {
        order.buyer.post(&format!("/orders/{}/cancel", order.id), &json!({ "reason": "too small" })).await
    }

    /// The same buyer at this site, with a token that this site knows: each site of a test has a key of its own.
    pub fn user_of(&self, buyer: &Client) -> Client {
        self.user(buyer.user_id.parse().expect("buyers have ids"), common::auth::Role::User)
    }

    // --- gRPC, with the right money

    pub async fn begin_payment(&self, order: &Placed, payment: Uuid) -> Result<Order, Error> {
        let request = BeginPaymentRequest {
            order_id: order.id.clone(),
            payment_id: payment.to_string(),
            user_id: order.buyer.user_id.clone(),
            amount: AMOUNT,
            currency: KRW.to_owned(),
        };
        Ok(self.rpc.clone().begin_payment(request).await?.into_inner().order.unwrap())
    }

    pub async fn begin_approval(&self, order: &Placed, payment: Uuid, attempt: Uuid) -> Result<Order, Error> {
        let request = BeginApprovalRequest {
            order_id: order.id.clone(),
            payment_id: payment.to_string(),
            attempt_id: attempt.to_string(),
            amount: AMOUNT,
            currency: KRW.to_owned(),
        };
        Ok(self.rpc.clone().begin_approval(request).await?.into_inner().order.unwrap())
    }

    /// Reserves the order for a new attempt of `payment`. Returns the attempt.
    pub async fn reserve(&self, order: &Placed, payment: Uuid) -> Uuid {
        let attempt = Uuid::now_v7();
        self.begin_approval(order, payment, attempt).await.unwrap();
        attempt
    }

    pub async fn end_approval(
        &self,
        order: &Placed,
        attempt: Uuid,
        hold_expires_at: Option<DateTime<Utc>>,
    ) -> Result<Order, Error> {
        let request = EndApprovalRequest {
            order_id: order.id.clone(),
            attempt_id: attempt.to_string(),
            hold_expires_at: hold_expires_at.map(Into::into),
        };
        Ok(self.rpc.clone().end_approval(request).await?.into_inner().order.unwrap())
    }

    pub async fn mark_paid(&self, order: &Placed, payment: Uuid, late: bool) -> Result<Order, Error> {
        let request = MarkPaidRequest {
            order_id: order.id.clone(),
            payment_id: payment.to_string(),
            amount: AMOUNT,
            currency: KRW.to_owned(),
            late,
        };
        Ok(self.rpc.clone().mark_paid(request).await?.into_inner().order.unwrap())
    }

    /// An order that a payment has paid.
    pub async fn paid_order(&self) -> (Placed, Uuid) {
        let (order, payment) = (self.order().await, Uuid::now_v7());
        self.reserve(&order, payment).await;
        self.mark_paid(&order, payment, false).await.unwrap();
        (order, payment)
    }

    pub async fn get(&self, order: &Placed) -> Order {
        let request = GetOrderRequest { order_id: order.id.clone() };
        self.rpc.clone().get_order(request).await.unwrap().into_inner().order.unwrap()
    }

    // --- the database

    /// Moves the time of an order into the past.
    pub async fn make_overdue(&self, orders: &[&Placed]) {
        let ids: Vec<String> = orders.iter().map(|order| format!("'{}'", order.id)).collect();
        let overdue = "update {order}.orders set hold_expires_at = now() - interval '1 second' where id in";
        self.execute(&format!("{overdue} ({})", ids.join(", "))).await;
    }

    /// Makes a new order overdue and waits until the sweep has expired it. Orders that were overdue before are expired by
    /// then, since the sweep takes the oldest first. Fails with `promise` if the new order does not expire.
    pub async fn until_swept(&self, promise: &str) {
        let overdue = self.order().await;
        self.make_overdue(&[&overdue]).await;
        self.until_expired(&overdue, promise).await;
    }

    /// Waits until the sweep has stored that the order is expired.
    pub async fn until_expired(&self, order: &Placed, promise: &str) {
        let expired = format!("select count(*) from {{order}}.orders where status = 'EXPIRED' and id = '{}'", order.id);
        soon(promise, self.until_number(&expired, 1)).await;
    }

    /// The events of an order in the order of their versions: `ORDER_CREATED 1`, ...
    pub async fn events(&self, order: &Placed) -> Vec<String> {
        self.events_with_payloads(order).await.into_iter().map(|(event, _)| event).collect()
    }

    pub async fn events_with_payloads(&self, order: &Placed) -> Vec<(String, Value)> {
        let query = format!(
            "select topic || ' ' || aggregate_version as event, payload::jsonb as payload
               from {{order}}.outbox_events
              where key = '{}'
              order by aggregate_version",
            order.id
        );
        self.rows(&query).await.into_iter().map(|row| (text(&row["event"]), row["payload"].clone())).collect()
    }
}

fn builder(inventory: &FakeInventory, coupon: &FakeCoupon) -> Builder {
    let (inventory, coupon) =
        (InventoryServiceServer::new(inventory.clone()), CouponServiceServer::new(coupon.clone()));
    Site::builder(&[order::spec()]).settings(&PATIENT).with(move |host| {
        host.grpc(inventory);
        host.grpc(coupon);
    })
}

/// The product of every order here.
pub fn sneaker() -> Product {
    Product { id: Uuid::from_u128(0x018f_0000_0000_7000_8000_0000_0000_00cc).to_string() }
}

/// `amount` has been refunded now, and `refunded_total` altogether.
pub fn payment_refunded(order: &Placed, payment: Uuid, amount: i64, refunded_total: i64) -> PaymentRefunded {
    PaymentRefunded {
        payment_id: payment.to_string(),
        order_id: order.id.clone(),
        user_id: order.buyer.user_id.clone(),
        version: 4,
        amount,
        refunded_total,
        captured: AMOUNT,
        currency: KRW.to_owned(),
        ..PaymentRefunded::default()
    }
}

/// The status code, and the code of a refusal or the order's status.
pub fn outcome(answer: &Answer) -> (u16, String) {
    let body = answer.json();
    let told = if answer.status.is_success() { &body["status"] } else { &body["code"] };
    (answer.status.as_u16(), text(told))
}

/// The refusal's code, or OK.
pub fn code<T>(outcome: &Result<T, Error>) -> String {
    match outcome {
        Ok(_) => "OK".to_owned(),
        Err(Error::Refused(refused)) => refused.code.reason.to_string(),
        Err(Error::Fault(fault)) => format!("fault: {:#}", fault.cause),
    }
}

pub fn hold_expires_at(order: &Order) -> DateTime<Utc> {
    DateTime::try_from(order.hold_expires_at.unwrap()).unwrap()
}
