//! An inventory of its own for each test, on servers that all tests share.

use std::time::{Duration, Instant};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::auth::{AUDIENCE, Claims, Jwk, JwkSet, Role, TYP};
use common::db::Db;
use common::host::Running;
use common::outbox::Event;
use common::settings::Settings;
use common::{Error, Host};
use contract::inventory::inventory_service_client::InventoryServiceClient;
use contract::inventory::{
    ConfirmHoldRequest, GetHoldRequest, Hold, HoldRequest, HoldResponse, PinHoldRequest, ReleaseHoldRequest,
    ReturnStockRequest, UnpinHoldRequest, WantedLine,
};
use diesel::QueryableByName;
use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rdkafka::ClientConfig;
use rdkafka::message::{Header as KafkaHeader, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use reqwest::{Method, StatusCode};
use sandbox::{KafkaChoice, Options, Sandbox};
use serde_json::{Value, json};
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tonic::transport::Channel;
use uuid::Uuid;

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(120);

/// Tests that torment a server have it for themselves.
static PEACE: RwLock<()> = RwLock::const_new(());

pub async fn servers() -> &'static Sandbox {
    static SERVERS: OnceCell<Sandbox> = OnceCell::const_new();
    SERVERS
        .get_or_init(async || {
            let data_dir = std::env::temp_dir().join(format!("stampede-inventory-{}", std::process::id()));
            let options =
                Options { data_dir, fresh: true, ephemeral: true, kafka: KafkaChoice::Apache, ..Options::default() };
            Sandbox::start(options).await.unwrap()
        })
        .await
}

#[expect(dead_code, reason = "held until the test ends")]
enum Peace {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// A running inventory.
pub struct Site {
    pub db: Db,
    pub namespace: String,
    running: Running,
    rpc: InventoryServiceClient<Channel>,
    http: reqwest::Client,
    producer: FutureProducer,
    key: Vec<u8>,
    issuer: String,
    admin: Uuid,
    /// A replica shares the peace of the first.
    _peace: Option<Peace>,
}

/// What an HTTP call came back with.
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }
}

impl Site {
    pub async fn start(name: &str) -> Site {
        Self::start_with(name, &[]).await
    }

    /// `settings` are added to those that make tests quick.
    pub async fn start_with(name: &str, settings: &[(&str, &str)]) -> Site {
        let peace = Peace::Shared(PEACE.read().await);
        Self::open(name, settings, Some(peace)).await
    }

    /// Another replica of `first`, on the same data.
    pub async fn start_beside(first: &Site, settings: &[(&str, &str)]) -> Site {
        Self::open(first.namespace.trim_end_matches('_'), settings, None).await
    }

    /// For tests that torment a server.
    pub async fn start_alone(name: &str, settings: &[(&str, &str)]) -> Site {
        let peace = Peace::Alone(PEACE.write().await);
        Self::open(name, settings, Some(peace)).await
    }

    async fn open(name: &str, settings: &[(&str, &str)], peace: Option<Peace>) -> Site {
        let servers = servers().await;
        let brokers = servers.kafka_brokers();
        let namespace = format!("{name}_");
        let (postgres, redis) = (servers.postgres_url(), servers.redis_url());
        let mut overrides = vec![
            ("host.http_listen", "127.0.0.1:0"),
            ("host.grpc_listen", "127.0.0.1:0"),
            ("host.namespace", &namespace),
            ("postgres.url", &postgres),
            ("redis.url", &redis),
            ("kafka.brokers", &brokers),
            ("kafka.partitions", "1"),
            ("inventory.sweep_period_ms", "100"),
            ("inventory.gate.check_period_ms", "300"),
            ("inventory.gate.rebuild_pause_ms", "200"),
            ("inventory.products.stock_cache_ms", "50"),
        ];
        overrides.extend_from_slice(settings);
        let overrides: Vec<_> = overrides.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let settings = Settings::load(&[], &overrides).unwrap();

        let mut host = Host::new(settings.clone()).await.unwrap();
        host.kafka().ensure_topics(&contract::events::TOPICS).await.unwrap();
        let key = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap().as_ref().to_vec();
        let keys = published(&key);
        host.http_root(move |routes| {
            let keys = keys.clone();
            let answer = move || std::future::ready(actix_web::web::Json(keys.clone()));
            routes.route("/.well-known/jwks.json", actix_web::web::get().to(answer));
        });
        inventory::mount(&mut host).await.unwrap();
        let schema = common::host::schema(&namespace, "inventory");
        let db = Db::open(&settings.section("postgres").unwrap(), &schema).await.unwrap();
        let running = host.start().await.unwrap();
        let channel = Channel::from_shared(format!("http://{}", running.grpc_addr)).unwrap().connect_lazy();
        Site {
            db,
            namespace,
            rpc: InventoryServiceClient::new(channel),
            running,
            http: reqwest::Client::new(),
            producer: ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap(),
            key,
            issuer: settings.section::<common::auth::AuthSettings>("auth").unwrap().issuer,
            admin: Uuid::now_v7(),
            _peace: peace,
        }
    }

    pub async fn stop(self) {
        self.running.stop().await;
    }

    // --- HTTP

    pub async fn call(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
        let url = format!("http://{}/api/v1{path}", self.running.http_addr);
        let mut request = self.http.request(method, url).bearer_auth(self.token());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        Answer { status: answer.status(), headers: answer.headers().clone(), text: answer.text().await.unwrap() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &[], None).await
    }

    fn token(&self) -> String {
        let now = jsonwebtoken::get_current_timestamp();
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: AUDIENCE.to_owned(),
            sub: self.admin,
            jti: Uuid::now_v7(),
            iat: now,
            nbf: now,
            exp: now + 600,
            roles: vec![Role::Admin.name().to_owned()],
        };
        let header =
            Header { typ: Some(TYP.to_owned()), kid: Some("test".to_owned()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(&self.key)).unwrap()
    }

    /// Puts `units` of a new product on sale; returns its id.
    pub async fn product(&self, units: i64) -> String {
        self.limited_product(units, None).await
    }

    pub async fn limited_product(&self, units: i64, max_per_user: Option<i32>) -> String {
        let price = json!({ "amount": 1000, "currency": "KRW" });
        let body = json!({ "sku": Uuid::now_v7().to_string(), "name": "Sneaker", "price": price,
            "initialStock": units, "maxPerUser": max_per_user });
        let answer = self.call(Method::POST, "/admin/products", &[], Some(body)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        answer.json()["productId"].as_str().unwrap().to_owned()
    }

    pub async fn adjust(&self, product: &str, key: &str, delta: i64) -> Answer {
        let path = format!("/admin/products/{product}/stock-adjust");
        let body = json!({ "delta": delta, "reason": "delivery" });
        self.call(Method::POST, &path, &[("Idempotency-Key", key)], Some(body)).await
    }

    // --- gRPC

    pub async fn hold(&self, hold: Uuid, user: Uuid, lines: &[(&str, i32)]) -> Result<HoldResponse, Error> {
        let lines = lines
            .iter()
            .map(|(product, quantity)| WantedLine { product_id: (*product).to_owned(), quantity: *quantity })
            .collect();
        let request = HoldRequest { hold_id: hold.to_string(), user_id: user.to_string(), lines };
        Ok(self.rpc.clone().hold(request).await?.into_inner())
    }

    /// One unit for somebody new.
    pub async fn hold_one(&self, product: &str) -> Result<Hold, Error> {
        Ok(self.hold(Uuid::now_v7(), Uuid::now_v7(), &[(product, 1)]).await?.hold.unwrap())
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

    pub async fn give_back(&self, hold: &str) -> Result<Hold, Error> {
        let request = ReturnStockRequest { hold_id: hold.to_owned(), reason: "refund".to_owned() };
        Ok(self.rpc.clone().return_stock(request).await?.into_inner().hold.unwrap())
    }

    pub async fn read_hold(&self, hold: &str) -> Result<Hold, Error> {
        let request = GetHoldRequest { hold_id: hold.to_owned() };
        Ok(self.rpc.clone().get_hold(request).await?.into_inner().hold.unwrap())
    }

    // --- Kafka

    /// Delivers `event` as its producer's relay would.
    pub async fn deliver<E: Event>(&self, event: &E) {
        let topic = format!("{}{}", self.namespace, E::TOPIC);
        let payload = serde_json::to_vec(event).unwrap();
        let event_id = Uuid::now_v7().to_string();
        let headers = OwnedHeaders::new().insert(KafkaHeader { key: "ce_id", value: Some(&event_id) });
        let record = FutureRecord::to(&topic).key(event.key()).payload(&payload).headers(headers);
        self.producer.send(record, PATIENCE).await.unwrap();
    }

    // --- the ledger

    pub async fn number(&self, query: &str) -> i64 {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = BigInt)]
            number: i64,
        }
        let query = format!("select ({query})::bigint as number");
        let row: Row = diesel::sql_query(query).get_result(&mut self.db.read().await.unwrap()).await.unwrap();
        row.number
    }

    /// (on hand, held) by the ledger, after checking that it adds up.
    pub async fn stock(&self, product: &str) -> (i64, i64) {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = BigInt)]
            on_hand: i64,
            #[diesel(sql_type = BigInt)]
            held: i64,
            #[diesel(sql_type = BigInt)]
            live: i64,
            #[diesel(sql_type = BigInt)]
            audited: i64,
        }
        // One statement, because sales and sweepers go on meanwhile.
        let row: Row = diesel::sql_query(
            "select stocks.on_hand, stocks.held,
                    (select coalesce(sum(quantity), 0)::bigint from hold_lines join holds using (hold_id)
                      where product_id = $1 and state in ('HELD', 'PINNED')) as live,
                    (select coalesce(sum(delta), 0)::bigint from product_stock_audit
                      where product_id = $1) as audited
               from stocks
              where product_id = $1",
        )
        .bind::<diesel::sql_types::Uuid, _>(product.parse::<Uuid>().unwrap())
        .get_result(&mut self.db.read().await.unwrap())
        .await
        .unwrap();
        assert_eq!(row.held, row.live, "held is the sum of the holds");
        assert_eq!(row.on_hand, row.audited, "on hand is the sum of the audit");
        assert!((0..=row.on_hand).contains(&row.held));
        (row.on_hand, row.held)
    }

    /// How many events of this topic the outbox has for `product`.
    pub async fn events(&self, topic: &str, product: &str) -> i64 {
        self.number(&format!("select count(*) from outbox_events where topic = '{topic}' and key = '{product}'")).await
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

/// Waits until `is_so`.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn published(key: &[u8]) -> JwkSet {
    let pair = Ed25519KeyPair::from_pkcs8(key).unwrap();
    let jwk = Jwk {
        kty: "OKP".to_owned(),
        crv: "Ed25519".to_owned(),
        alg: "EdDSA".to_owned(),
        usage: "sig".to_owned(),
        kid: "test".to_owned(),
        x: URL_SAFE_NO_PAD.encode(pair.public_key()),
    };
    JwkSet { keys: vec![jwk] }
}
