//! What is special to tests of coupons: issuing over HTTP, redeeming over gRPC, and the gate in Redis.

use std::ops::Deref;

use chrono::{DateTime, Duration, Utc};
use common::Error;
use common::auth::Role;
use common::rpc::Upstream;
use contract::coupon::coupon_service_client::CouponServiceClient;
use contract::coupon::{
    GetRedemptionRequest, OrderedLine, PinRedemptionRequest, Redemption, ReleaseRedemptionRequest,
    ReserveRedemptionRequest, UnpinRedemptionRequest,
};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use reqwest::Method;
use sandbox::Sandbox;
use serde_json::{Value, json};
use testkit::{Answer, Client, eventually, fresh_key, text};
use uuid::Uuid;

/// No loop runs by itself, and a busy machine is waited for: each test says what happens, and when.
pub const QUIET: [(&str, &str); 6] = [
    ("coupon.sweep_period_ms", "600000"),
    ("coupon.takes.sweep_period_ms", "600000"),
    ("coupon.gate.clock_period_ms", "600000"),
    ("coupon.gate.wait_ms", "600000"),
    ("coupon.writer.give_up_ms", "600000"),
    ("redis.timeout_ms", "20000"),
];

/// Takes that are left are looked for often, and each is one.
pub const SWEEPING: [(&str, &str); 2] = [("coupon.takes.sweep_period_ms", "20"), ("coupon.takes.idle_ms", "0")];

/// A running coupon service.
pub struct Site {
    kit: testkit::Site,
    rpc: CouponServiceClient<Upstream>,
    redis: MultiplexedConnection,
}

impl Deref for Site {
    type Target = testkit::Site;

    fn deref(&self) -> &testkit::Site {
        &self.kit
    }
}

/// How a gate looks: (left, users, pending takes); None if it is not loaded.
pub type GateView = Option<(i64, i64, i64)>;

impl Site {
    pub async fn start() -> Site {
        Self::start_with(&[]).await
    }

    pub async fn start_with(settings: &[(&str, &str)]) -> Site {
        Self::new(testkit::Site::builder(&[coupon::spec()]).settings(&QUIET).settings(settings).start().await).await
    }

    /// On servers that the test may kill or empty.
    pub async fn start_on(servers: &'static Sandbox, settings: &[(&str, &str)]) -> Site {
        let builder = testkit::Site::builder(&[coupon::spec()]).settings(&QUIET).settings(settings);
        Self::new(builder.on(servers).start().await).await
    }

    /// Another process on the same data, with `settings` in place of the first one's.
    pub async fn replica_with(&self, settings: &[(&str, &str)]) -> Site {
        let builder = testkit::Site::builder(&[coupon::spec()]).settings(&QUIET).settings(settings);
        // Both believe the tokens of the first.
        let builder = builder.set("auth.jwks_url", format!("{}/.well-known/jwks.json", self.api));
        Self::new(builder.namespace(self.namespace()).on(self.servers).start().await).await
    }

    async fn new(kit: testkit::Site) -> Site {
        let rpc = CouponServiceClient::new(kit.upstream("coupon"));
        let client = redis::Client::open(kit.servers.redis_url()).unwrap();
        let patient = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let redis = client.get_multiplexed_async_connection_with_config(&patient).await.unwrap();
        Site { kit, rpc, redis }
    }

    pub async fn stop(self) {
        self.kit.stop().await;
    }

    // --- coupons

    /// The id of a new coupon: 10 %, open, and not soon over.
    pub async fn coupon(&self, total: i64) -> String {
        self.coupon_with(json!({ "total": total })).await
    }

    /// `members` of the request in place of those of [`new_coupon`].
    pub async fn coupon_with(&self, members: Value) -> String {
        text(&self.create(&fresh_key(), &new_coupon(members)).await.expect(201).json()["couponId"])
    }

    pub async fn create(&self, key: &str, coupon: &Value) -> Answer {
        let request = self.admin().request(Method::POST, "/admin/coupons").header("Idempotency-Key", key);
        self.admin().send(request.json(coupon)).await
    }

    pub async fn change(&self, coupon: &str, version: &str, change: Value) -> Answer {
        let request = self.admin().request(Method::PATCH, &format!("/admin/coupons/{coupon}"));
        self.admin().send(request.header("If-Match", version).json(&change)).await
    }

    pub async fn reconcile(&self, coupon: &str) -> Value {
        self.admin().post(&format!("/admin/coupons/{coupon}/reconcile"), &json!({})).await.expect(200).json()
    }

    /// Somebody new.
    pub fn somebody(&self) -> Client {
        self.user(Uuid::now_v7(), Role::User)
    }

    pub async fn issue(&self, user: &Client, coupon: &str) -> Answer {
        // The same user at this replica.
        let user = user.at(&self.api);
        user.send(user.request(Method::POST, &format!("/coupons/{coupon}/issue"))).await
    }

    /// The id of what somebody new gets.
    pub async fn issued(&self, user: &Client, coupon: &str) -> String {
        text(&self.issue(user, coupon).await.expect(201).json()["issueId"])
    }

    /// Tells the same user that it was issued before.
    pub async fn refuse_repeat(&self, user: &Client, coupon: &str) -> String {
        text(&self.issue(user, coupon).await.refused(409, "COUPON_ALREADY_ISSUED")["details"][0]["issueId"])
    }

    pub async fn status(&self, user: &Client, coupon: &str) -> String {
        text(&user.get(&format!("/coupons/{coupon}/issues/me")).await.expect(200).json()["status"])
    }

    // --- PostgreSQL

    /// (issued, rows, events) of a coupon.
    pub async fn stored(&self, coupon: &str) -> (i64, i64, i64) {
        let query = format!(
            "select issued,
                    (select count(*) from {{coupon}}.coupon_issue where coupon_id = '{coupon}') as stored,
                    (select count(*) from {{coupon}}.outbox_events
                      where topic = 'COUPON_ISSUED' and key like '{coupon}:%') as events
               from {{coupon}}.coupons where id = '{coupon}'"
        );
        let row = self.rows(&query).await.remove(0);
        let [issued, stored, events] = ["issued", "stored", "events"].map(|column| row[column].as_i64().unwrap());
        (issued, stored, events)
    }

    pub async fn events(&self, topic: &str) -> i64 {
        self.number(&format!("select count(*) from {{coupon}}.outbox_events where topic = '{topic}'")).await
    }

    /// Lets `coupon` begin and end so many seconds from now, and its gate does not hear of it.
    pub async fn move_window(&self, coupon: &str, starts_in: i64, ends_in: i64) {
        let moved = format!(
            "update {{coupon}}.coupons
                set starts_at = clock_timestamp() + interval '{starts_in} s',
                    expires_at = clock_timestamp() + interval '{ends_in} s'
              where id = '{coupon}'"
        );
        self.execute(&moved).await;
    }

    /// Lets the time of an order's reservation be up.
    pub async fn expire(&self, order: Uuid) {
        let past = "update {coupon}.coupon_redemptions set expires_at = clock_timestamp() - interval '1 second'";
        self.execute(&format!("{past} where order_id = '{order}'")).await;
    }

    // --- the gate

    pub async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        command.query_async(&mut self.redis.clone()).await.unwrap()
    }

    pub fn key(&self, coupon: &str, name: &str) -> String {
        format!("{}coupon:{{{coupon}}}:{name}", self.namespace())
    }

    pub async fn gate(&self, coupon: &str) -> GateView {
        let left: Option<i64> = self.ask(redis::cmd("GET").arg(self.key(coupon, "stock"))).await;
        let users = self.ask(redis::cmd("HLEN").arg(self.key(coupon, "issued"))).await;
        let pending = self.ask(redis::cmd("XLEN").arg(self.key(coupon, "journal"))).await;
        Some((left?, users, pending))
    }

    pub async fn gate_epoch(&self, coupon: &str) -> i64 {
        self.ask(redis::cmd("HGET").arg(self.key(coupon, "meta")).arg("epoch")).await
    }

    /// Waits until the gate has what PostgreSQL has, and no take waits.
    pub async fn gate_agrees(&self, coupon: &str) {
        eventually("the gate has what PostgreSQL has", async || {
            let query = "select total - issued from {coupon}.coupons";
            let left = self.number(&format!("{query} where id = '{coupon}'")).await;
            let (_, rows, _) = self.stored(coupon).await;
            (self.gate(coupon).await == Some((left, rows, 0))).then_some(())
        })
        .await;
    }

    /// Lets Redis forget everything about `coupon`.
    pub async fn lose_gate(&self, coupon: &str) {
        let mut del = redis::cmd("DEL");
        for name in ["meta", "stock", "issued", "journal", "loading", "failed"] {
            del.arg(self.key(coupon, name));
        }
        let _: i64 = self.ask(&del).await;
    }

    // --- redemptions

    /// Reserves `issue` for `order` of one product of 10,000 won.
    pub async fn reserve(&self, order: Uuid, issue: &str, user: &Client) -> Result<Redemption, Error> {
        let lines = vec![line(1, 10_000)];
        self.reserve_lines(order, issue, user, lines, Utc::now() + Duration::minutes(10)).await
    }

    pub async fn reserve_lines(
        &self,
        order: Uuid,
        issue: &str,
        user: &Client,
        lines: Vec<OrderedLine>,
        expires_at: DateTime<Utc>,
    ) -> Result<Redemption, Error> {
        let request = ReserveRedemptionRequest {
            order_id: order.to_string(),
            issue_id: issue.to_owned(),
            user_id: user.user_id.clone(),
            currency: "KRW".to_owned(),
            lines,
            expires_at: Some(expires_at.into()),
        };
        Ok(self.rpc.clone().reserve_redemption(request).await?.into_inner().redemption.unwrap())
    }

    pub async fn pin(&self, order: Uuid, attempt: Uuid, retake: bool) -> Result<Redemption, Error> {
        let request = PinRedemptionRequest { order_id: order.to_string(), attempt_id: attempt.to_string(), retake };
        Ok(self.rpc.clone().pin_redemption(request).await?.into_inner().redemption.unwrap())
    }

    pub async fn unpin(&self, order: Uuid, attempt: Uuid) -> Result<Redemption, Error> {
        let request = UnpinRedemptionRequest { order_id: order.to_string(), attempt_id: attempt.to_string() };
        Ok(self.rpc.clone().unpin_redemption(request).await?.into_inner().redemption.unwrap())
    }

    pub async fn release(&self, order: Uuid) -> Result<Redemption, Error> {
        let request = ReleaseRedemptionRequest { order_id: order.to_string(), reason: "order cancelled".to_owned() };
        Ok(self.rpc.clone().release_redemption(request).await?.into_inner().redemption.unwrap())
    }

    pub async fn redemption(&self, order: Uuid) -> Result<Redemption, Error> {
        let request = GetRedemptionRequest { order_id: order.to_string() };
        Ok(self.rpc.clone().get_redemption(request).await?.into_inner().redemption.unwrap())
    }
}

/// The request for a coupon that is open, with `members` in place of its own.
pub fn new_coupon(members: Value) -> Value {
    let (starts_at, expires_at) = (Utc::now() - Duration::hours(1), Utc::now() + Duration::hours(1));
    let mut coupon = json!({
        "name": "오픈 기념 쿠폰",
        "discount": { "kind": "PERCENT", "value": 10 },
        "currency": "KRW",
        "total": 10,
        "startsAt": starts_at.to_rfc3339(),
        "expiresAt": expires_at.to_rfc3339(),
        "restoredOnRefund": true,
    });
    coupon.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    coupon
}

pub fn line(quantity: i32, unit_price: i64) -> OrderedLine {
    OrderedLine { product_id: Uuid::now_v7().to_string(), quantity, unit_price }
}

/// The refusal's code, or OK.
pub fn code<T>(outcome: &Result<T, Error>) -> String {
    match outcome {
        Ok(_) => "OK".to_owned(),
        Err(Error::Refused(refused)) => refused.code.reason.to_string(),
        Err(Error::Fault(fault)) => format!("fault: {:#}", fault.cause),
    }
}
