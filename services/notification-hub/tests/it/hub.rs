//! A site with the hub alone, the events that it gets, and what its readers see.

use common::auth::Role;
use contract::account::account_service_server::AccountServiceServer;
use contract::events::{OrderCreated, OrderLine, PaymentFailed};
use contract::ids::{OrderId, PaymentAttemptId, PaymentId};
use reqwest::Method;
use serde_json::Value;
use testkit::{Answer, Builder, Client, PATIENT, Site, eventually, text};
use uuid::Uuid;

use crate::fake_account::FakeAccount;

pub const USER: Uuid = Uuid::from_u128(0xaa);
pub const STRANGER: Uuid = Uuid::from_u128(0xbb);

/// A hub with `settings` above those of all tests. Without an address of Slack, messages for operators go to the log.
pub async fn start(settings: &[(&str, &str)]) -> (Site, FakeAccount) {
    let account = FakeAccount::new();
    (ready(builder(&account, settings).start().await).await, account)
}

/// [`start`], with what the test adds to the host.
pub async fn start_beside(settings: &[(&str, &str)], mount: impl FnOnce(&mut common::Host) + 'static) -> Site {
    ready(builder(&FakeAccount::new(), settings).with(mount).start().await).await
}

/// One more process with the data of `site`, made as it was.
pub async fn replica(site: &Site, account: &FakeAccount, settings: &[(&str, &str)]) -> Site {
    ready(builder(account, settings).namespace(site.namespace()).start().await).await
}

/// `site`, once it has the key that tokens are checked with: on a busy machine it may not get it in time for the first
/// request, which is answered 503 then.
async fn ready(site: Site) -> Site {
    eventually("tokens can be checked", async || {
        let answer = site.admin().get("/notifications?limit=1").await;
        (answer.status == 200).then_some(())
    })
    .await;
    site
}

pub fn builder(account: &FakeAccount, settings: &[(&str, &str)]) -> Builder {
    let service = AccountServiceServer::new(account.clone());
    Site::builder(&[notification_hub::spec()])
        .settings(&PATIENT)
        .set("notification_hub.slack.url", "")
        .set("notification_hub.email.retry_delays_seconds", "0,0,0,0,0")
        .settings(settings)
        .caller("order")
        .with(|host| host.grpc(service))
}

pub fn user(site: &Site) -> Client {
    site.user(USER, Role::User)
}

pub fn stranger(site: &Site) -> Client {
    site.user(STRANGER, Role::User)
}

/// An order of `buyer`, the same for the same `name`, and the id of its event.
pub fn order(name: &str, buyer: Uuid) -> (Uuid, OrderCreated) {
    let order_id = OrderId::derive(&[name.as_bytes(), buyer.as_bytes()]);
    let line = OrderLine {
        product_id: Uuid::from_u128(1).to_string(),
        name: "Sneaker".to_owned(),
        quantity: 2,
        unit_price: 129_000,
        discount: 0,
        seats: Vec::new(),
    };
    let order = OrderCreated {
        order_id: order_id.to_string(),
        user_id: buyer.to_string(),
        version: 1,
        items: vec![line],
        amount: 258_000,
        currency: "KRW".to_owned(),
        ..OrderCreated::default()
    };
    (common::id::derive_uuid("event", &[order_id.as_bytes()]), order)
}

/// Publishes that `buyer` has ordered; for the same `name` the same event again.
pub async fn publish_order(site: &Site, name: &str, buyer: Uuid) {
    let (event_id, order) = order(name, buyer);
    site.publish_as(event_id, &order).await;
}

/// A failed payment of `USER`, the same for the same `name`.
pub fn payment_failed(name: &str) -> PaymentFailed {
    PaymentFailed {
        payment_id: PaymentId::derive(&[name.as_bytes()]).to_string(),
        order_id: OrderId::derive(&[name.as_bytes()]).to_string(),
        user_id: USER.to_string(),
        version: 2,
        attempt_id: PaymentAttemptId::derive(&[name.as_bytes()]).to_string(),
        amount: 129_000,
        currency: "KRW".to_owned(),
        provider: "naverpay".to_owned(),
        code: "PAYMENT_DECLINED".to_owned(),
        pg_code: "NotEnoughAccountBalance".to_owned(),
        failed_at: None,
    }
}

/// What `reader` finds under `/notifications{query}`, the newest first.
pub async fn list(reader: &Client, query: &str) -> Vec<Value> {
    let page = reader.get(&format!("/notifications{query}")).await.expect(200).json();
    page["items"].as_array().unwrap().clone()
}

/// The newest notification that `reader` sees, once `is_so`.
pub async fn newest(reader: &Client, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || list(reader, "?limit=1").await.into_iter().find(|found| is_so(found))).await
}

/// The newest notification that `reader` sees, once nothing of it is under way any more.
pub async fn ended(reader: &Client) -> Value {
    newest(reader, "the newest notification ends", |found| found["status"] != "IN_PROGRESS").await
}

/// All notifications that `reader` sees, once there are `count` and nothing of them is under way any more.
pub async fn all_ended(reader: &Client, count: usize) -> Vec<Value> {
    eventually(&format!("{count} notifications end"), async || {
        let all = list(reader, "?limit=100").await;
        assert!(all.len() <= count, "more than {count} notifications: {all:?}");
        (all.len() == count && all.iter().all(|found| found["status"] != "IN_PROGRESS")).then_some(all)
    })
    .await
}

/// The delivery of `notification` over `channel`.
#[track_caller]
pub fn delivery<'a>(notification: &'a Value, channel: &str) -> &'a Value {
    let deliveries = notification["deliveries"].as_array().unwrap();
    deliveries.iter().find(|one| one["channel"] == channel).unwrap_or_else(|| panic!("no {channel} in {notification}"))
}

/// Status, attempts and last error of the e-mail or alert.
pub fn state(delivery: &Value) -> (String, i64, Option<String>) {
    let last_error = delivery["lastError"].as_str().map(str::to_owned);
    (text(&delivery["status"]), delivery["attempts"].as_i64().unwrap(), last_error)
}

/// [`state`] as a test expects it.
pub fn is(status: &str, attempts: i64, last_error: Option<&str>) -> (String, i64, Option<String>) {
    (status.to_owned(), attempts, last_error.map(str::to_owned))
}

/// An operator's request to try `delivery` of `notification` again.
pub async fn retry(operator: &Client, notification: &Value, delivery: &Value) -> Answer {
    let (notification, delivery) = (text(&notification["notificationId"]), text(&delivery["deliveryId"]));
    let path = format!("/notifications/{notification}/deliveries/{delivery}/retry");
    operator.send(operator.request(Method::POST, &path)).await
}
