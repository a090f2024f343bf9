//! What is special to tests of inventory: its gRPC calls, its stock in PostgreSQL, and its gate in Redis.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::time::{Duration, Instant};

use common::rpc::Upstream;
use common::{Error, Host};
use contract::inventory::inventory_service_client::InventoryServiceClient;
use contract::inventory::{
    ConfirmHoldRequest, GetHoldRequest, Hold, HoldRequest, HoldResponse, HoldState, PinHoldRequest, ReleaseHoldRequest,
    ReturnStockRequest, UnpinHoldRequest, WantedLine,
};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use sandbox::Sandbox;
use serde_json::json;
use testkit::{Product, text};
use uuid::Uuid;

/// The gate hears of a commit at once, but nobody waits for that.
const GATE_PATIENCE: Duration = Duration::from_secs(10);

/// No loop runs by itself, a gate is loaded once, and a busy machine is waited for: each test says what happens, and
/// when.
const QUIET: [(&str, &str); 5] = [
    ("inventory.sweep_period_ms", "600000"),
    ("inventory.gate.check_period_ms", "600000"),
    ("inventory.gate.rebuild_pause_ms", "600000"),
    ("inventory.products.stock_cache_ms", "50"),
    ("redis.timeout_ms", "20000"),
];

/// A sweeper that comes at once and often.
pub const SWEEPING: [(&str, &str); 1] = [("inventory.sweep_period_ms", "20")];

/// A running inventory.
pub struct Site {
    kit: testkit::Site,
    rpc: InventoryServiceClient<Upstream>,
    redis: MultiplexedConnection,
    /// A hold that has been released before it was made: asking for it touches the gate and nothing else.
    tombstone: Uuid,
}

impl Deref for Site {
    type Target = testkit::Site;

    fn deref(&self) -> &testkit::Site {
        &self.kit
    }
}

impl Site {
    pub async fn start() -> Site {
        Self::start_with(&[]).await
    }

    pub async fn start_with(settings: &[(&str, &str)]) -> Site {
        let kit = testkit::Site::builder(&[inventory::spec()]).settings(&QUIET).settings(settings).start().await;
        Self::new(kit).await
    }

    /// With something else on the same host.
    pub async fn start_beside(settings: &[(&str, &str)], mount: impl FnOnce(&mut Host) + 'static) -> Site {
        let builder = testkit::Site::builder(&[inventory::spec()]).settings(&QUIET).settings(settings);
        Self::new(builder.with(mount).start().await).await
    }

    /// On servers that the test may kill or empty.
    pub async fn start_on(servers: &'static Sandbox, settings: &[(&str, &str)]) -> Site {
        let builder = testkit::Site::builder(&[inventory::spec()]).settings(&QUIET).settings(settings);
        Self::new(builder.on(servers).start().await).await
    }

    /// Another process on the same data, with `settings` in place of the first one's.
    pub async fn replica_with(&self, settings: &[(&str, &str)]) -> Site {
        let builder = testkit::Site::builder(&[inventory::spec()]).settings(&QUIET).settings(settings);
        Self::new(builder.namespace(self.namespace()).on(self.servers).start().await).await
    }

    async fn new(kit: testkit::Site) -> Site {
        let rpc = InventoryServiceClient::new(kit.upstream("inventory"));
        let client = redis::Client::open(kit.servers.redis_url()).unwrap();
        let patient = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let redis = client.get_multiplexed_async_connection_with_config(&patient).await.unwrap();
        let tombstone = Uuid::now_v7();
        let site = Site { kit, rpc, redis, tombstone };
        site.release(&tombstone.to_string()).await.unwrap();
        site
    }

    pub async fn stop(self) {
        self.kit.stop().await;
    }

    /// Puts `units` of a new product on sale. Its gate is loaded.
    pub async fn product(&self, units: i64) -> Product {
        let product = self.kit.product(units).await;
        self.load_gate(&product).await;
        product
    }

    pub async fn limited_product(&self, units: i64, max_per_user: i32) -> Product {
        let product = self.kit.product_with(json!({ "initialStock": units, "maxPerUser": max_per_user })).await;
        self.load_gate(&product).await;
        product
    }

    // --- gRPC

    pub async fn hold(&self, hold: Uuid, user: Uuid, lines: &[(&Product, i32)]) -> Result<HoldResponse, Error> {
        let line =
            |(product, quantity): &(&Product, i32)| WantedLine { product_id: product.id.clone(), quantity: *quantity };
        let lines = lines.iter().map(line).collect();
        let request =
            HoldRequest { hold_id: hold.to_string(), user_id: user.to_string(), lines, reservation_id: String::new() };
        Ok(self.rpc.clone().hold(request).await?.into_inner())
    }

    /// As the order service takes a reservation over.
    pub async fn hold_reserved(&self, order: Uuid, user: &str, reservation: &str) -> Result<HoldResponse, Error> {
        let request = HoldRequest {
            hold_id: order.to_string(),
            user_id: user.to_owned(),
            lines: Vec::new(),
            reservation_id: reservation.to_owned(),
        };
        Ok(self.rpc.clone().hold(request).await?.into_inner())
    }

    /// For somebody new.
    pub async fn hold_lines(&self, lines: &[(&Product, i32)]) -> Result<Hold, Error> {
        Ok(self.hold(Uuid::now_v7(), Uuid::now_v7(), lines).await?.hold.unwrap())
    }

    /// One unit for somebody new.
    pub async fn hold_one(&self, product: &Product) -> Result<Hold, Error> {
        self.hold_lines(&[(product, 1)]).await
    }

    pub async fn pin(&self, hold: &str, attempt: Uuid) -> Result<Hold, Error> {
        self.pin_as(hold, attempt, false).await
    }

    /// As when the money is there although the hold's time was up.
    pub async fn retake(&self, hold: &str, attempt: Uuid) -> Result<Hold, Error> {
        self.pin_as(hold, attempt, true).await
    }

    async fn pin_as(&self, hold: &str, attempt: Uuid, retake: bool) -> Result<Hold, Error> {
        let request = PinHoldRequest { hold_id: hold.to_owned(), attempt_id: attempt.to_string(), retake };
        Ok(self.rpc.clone().pin_hold(request).await?.into_inner().hold.unwrap())
    }

    pub async fn unpin(&self, hold: &str, attempt: Uuid) -> Result<Hold, Error> {
        let request = UnpinHoldRequest { hold_id: hold.to_owned(), attempt_id: attempt.to_string() };
        Ok(self.rpc.clone().unpin_hold(request).await?.into_inner().hold.unwrap())
    }

    pub async fn release(&self, hold: &str) -> Result<Hold, Error> {
        let request = ReleaseHoldRequest { hold_id: hold.to_owned(), reason: "order cancelled".to_owned() };
        Ok(self.rpc.clone().release_hold(request).await?.into_inner().hold.unwrap())
    }

    pub async fn confirm(&self, hold: &str) -> Result<Hold, Error> {
        let request = ConfirmHoldRequest { hold_id: hold.to_owned(), order_version: 3 };
        Ok(self.rpc.clone().confirm_hold(request).await?.into_inner().hold.unwrap())
    }

    pub async fn return_stock(&self, hold: &str) -> Result<Hold, Error> {
        let request = ReturnStockRequest { hold_id: hold.to_owned(), reason: "refund".to_owned() };
        Ok(self.rpc.clone().return_stock(request).await?.into_inner().hold.unwrap())
    }

    pub async fn get_hold(&self, hold: &str) -> Result<Hold, Error> {
        let request = GetHoldRequest { hold_id: hold.to_owned() };
        Ok(self.rpc.clone().get_hold(request).await?.into_inner().hold.unwrap())
    }

    pub async fn state(&self, hold: &Hold) -> HoldState {
        self.get_hold(&hold.hold_id).await.unwrap().state()
    }

    // --- PostgreSQL

    /// (on hand, held), after checking that both add up.
    pub async fn stock(&self, product: &Product) -> (i64, i64) {
        let id = &product.id;
        // One statement, because sales and sweepers go on meanwhile.
        let query = format!(
            "select stocks.on_hand, stocks.held,
                    (select coalesce(sum(quantity), 0)::bigint
                       from {{inventory}}.hold_lines join {{inventory}}.holds using (hold_id)
                      where product_id = '{id}' and state in ('HELD', 'PINNED')) as live,
                    (select coalesce(sum(delta), 0)::bigint
                       from {{inventory}}.product_stock_audit where product_id = '{id}') as audited
               from {{inventory}}.stocks
              where product_id = '{id}'"
        );
        let row = self.rows(&query).await.remove(0);
        let [on_hand, held, live, audited] =
            ["on_hand", "held", "live", "audited"].map(|column| row[column].as_i64().unwrap());
        assert_eq!(held, live, "the units held of {id} are those of its living holds");
        assert_eq!(on_hand, audited, "every movement of units of {id} has one audit row");
        assert!((0..=on_hand).contains(&held), "{held} of {on_hand} units are held");
        (on_hand, held)
    }

    /// How many events of this topic the outbox has for `product`.
    pub async fn events(&self, topic: &str, product: &Product) -> i64 {
        let query = "select count(*) from {inventory}.outbox_events";
        self.number(&format!("{query} where topic = '{topic}' and key = '{}'", product.id)).await
    }

    /// A session that a test may begin a transaction in.
    pub async fn session(&self) -> AsyncPgConnection {
        self.db("inventory").await.dedicated().await.unwrap()
    }

    /// A session whose open transaction has locked the stock of `product`. It ends with `commit`.
    pub async fn lock_stock(&self, product: &Product) -> AsyncPgConnection {
        let mut session = self.session().await;
        let lock = format!("begin; select from stocks where product_id = '{}' for update", product.id);
        session.batch_execute(&lock).await.unwrap();
        session
    }

    /// Returns when `count` transactions of this inventory wait for a lock.
    pub async fn until_waiting(&self, count: i64) {
        self.until_blocked("inventory", count).await;
    }

    /// Lets the time of `holds` be up, in PostgreSQL and in the gate.
    pub async fn expire(&self, holds: &[&Hold]) {
        let products: BTreeSet<&str> =
            holds.iter().flat_map(|hold| &hold.lines).map(|line| line.product_id.as_str()).collect();
        for id in products {
            // What the gate has yet to hear would give them their time back.
            self.gate_agrees(&Product { id: id.to_owned() }).await;
        }
        let ids: Vec<String> = holds.iter().map(|hold| format!("'{}'", hold.hold_id)).collect();
        let past = "update {inventory}.holds set expires_at = clock_timestamp() - interval '1 second'";
        self.execute(&format!("{past} where hold_id in ({})", ids.join(", "))).await;
        for hold in holds {
            for line in &hold.lines {
                let [_, holds] = self.gate_keys(&line.product_id);
                let member = format!("{}:{}", hold.hold_id, line.quantity);
                let score: Option<f64> = self.ask(redis::cmd("ZSCORE").arg(&holds).arg(&member)).await;
                if score.is_some_and(f64::is_finite) {
                    let _: i64 = self.ask(redis::cmd("ZADD").arg(&holds).arg("XX").arg(1).arg(&member)).await;
                }
            }
        }
    }

    // --- the gate

    pub fn redis(&self) -> MultiplexedConnection {
        self.redis.clone()
    }

    pub async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        command.query_async(&mut self.redis()).await.unwrap()
    }

    /// The keys of a product's gate: its hash and its sorted set.
    pub fn gate_keys(&self, product: &str) -> [String; 2] {
        ["stock", "holds"].map(|key| format!("{}{key}:{{{product}}}", self.namespace()))
    }

    /// None: it is not loaded.
    pub async fn tokens(&self, product: &Product) -> Option<i64> {
        let [stock, _] = self.gate_keys(&product.id);
        self.ask(redis::cmd("HGET").arg(stock).arg("tokens")).await
    }

    pub async fn set_tokens(&self, product: &Product, tokens: i64) {
        let [stock, _] = self.gate_keys(&product.id);
        let _: i64 = self.ask(redis::cmd("HSET").arg(stock).arg("tokens").arg(tokens)).await;
    }

    /// Lets Redis forget the gate of `product`, and that it was loaded lately.
    pub async fn lose_gate(&self, product: &Product) {
        let [stock, holds] = self.gate_keys(&product.id);
        let lock = format!("{}gate-lock:{{{}}}", self.namespace(), product.id);
        let _: i64 = self.ask(redis::cmd("DEL").arg(stock).arg(holds).arg(lock)).await;
    }

    /// Has the gate of `product` loaded if it is not, without holding anything.
    pub async fn load_gate(&self, product: &Product) {
        let outcome = self.hold(self.tombstone, Uuid::now_v7(), &[(product, 1)]).await;
        assert_eq!(code(&outcome), "HOLD_ALREADY_RELEASED", "whoever comes after the release gets no hold");
        self.gate_agrees(product).await;
    }

    /// Waits until the gate of `product` counts what PostgreSQL counts.
    pub async fn gate_agrees(&self, product: &Product) {
        let started = Instant::now();
        loop {
            let (gate, truth) = (self.gate(product).await, self.truth(product).await);
            if gate == truth {
                return;
            }
            let waited = started.elapsed();
            assert!(
                waited < GATE_PATIENCE,
                "the gate counts what PostgreSQL counts: the gate has {gate:?}, PostgreSQL {truth:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn gate(&self, product: &Product) -> GateView {
        let [_, holds] = self.gate_keys(&product.id);
        let (seconds, _): (f64, i64) = self.ask(&redis::cmd("TIME")).await;
        let members: Vec<(String, f64)> =
            self.ask(redis::cmd("ZRANGE").arg(holds).arg(0).arg(-1).arg("WITHSCORES")).await;
        let mut view = GateView { tokens: self.tokens(product).await, holds: BTreeMap::new() };
        for (member, score) in members {
            let left_seconds = score / 1000.0 - seconds;
            if left_seconds > 0.0 {
                view.holds.insert(member, Left::of(left_seconds));
            } else if let (Some(tokens), Some((_, quantity))) = (&mut view.tokens, member.split_once(':')) {
                // The next take gives it back.
                *tokens += quantity.parse::<i64>().unwrap();
            }
        }
        view
    }

    async fn truth(&self, product: &Product) -> GateView {
        let id = &product.id;
        let stock = format!("select on_hand as number from {{inventory}}.stocks where product_id = '{id}'");
        let live = format!(
            "select concat(hold_id, ':', quantity) as member, quantity,
                    case when state = 'HELD' then extract(epoch from expires_at - clock_timestamp())::float end as left
               from {{inventory}}.holds join {{inventory}}.hold_lines using (hold_id)
              where product_id = '{id}'
                and (state = 'PINNED' or (state = 'HELD' and expires_at > clock_timestamp()))"
        );
        let on_hand = self.rows(&stock).await[0]["number"].as_i64().unwrap();
        let rows = self.rows(&live).await;
        let held: i64 = rows.iter().map(|row| row["quantity"].as_i64().unwrap()).sum();
        let left = |row: &serde_json::Value| Left::of(row["left"].as_f64().unwrap_or(f64::INFINITY));
        let holds = rows.iter().map(|row| (text(&row["member"]), left(row))).collect();
        GateView { tokens: Some(on_hand - held), holds }
    }
}

/// What a gate has, or should have.
#[derive(Debug, PartialEq)]
struct GateView {
    tokens: Option<i64>,
    holds: BTreeMap<String, Left>,
}

/// How long a hold keeps its units.
#[derive(Debug)]
enum Left {
    Seconds(f64),
    ForEver,
}

impl Left {
    fn of(seconds: f64) -> Left {
        if seconds.is_finite() { Left::Seconds(seconds) } else { Left::ForEver }
    }
}

/// The gate hears of a hold a little later than it begins, and counts its time from then on.
impl PartialEq for Left {
    fn eq(&self, other: &Left) -> bool {
        match (self, other) {
            (Left::Seconds(one), Left::Seconds(other)) => (one - other).abs() < 30.0,
            (Left::ForEver, Left::ForEver) => true,
            (Left::Seconds(_), Left::ForEver) | (Left::ForEver, Left::Seconds(_)) => false,
        }
    }
}

/// The refusal's code, or OK.
pub fn code<T>(outcome: &Result<T, Error>) -> String {
    match outcome {
        Ok(_) => "OK".to_owned(),
        Err(Error::Refused(refused)) => refused.code.reason.to_string(),
        Err(Error::Fault(fault)) => format!("fault: {:#}", fault.cause),
    }
}
