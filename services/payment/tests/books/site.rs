//! A payment service of its own for each test, on servers that all tests share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::Host;
use common::auth::{AUDIENCE, Claims, Jwk, JwkSet, Role, TYP};
use common::db::Db;
use common::host::Running;
use common::settings::Settings;
use contract::order as proto;
use contract::order::order_service_server::{OrderService, OrderServiceServer};
use diesel::QueryableByName;
use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Method, StatusCode};
use sandbox::{Fakes, KafkaChoice, Options, Sandbox};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::cases::{Case, OLD_SECRET, SECRET};

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(120);

const AMOUNT: i64 = 1_000;

async fn servers() -> &'static Sandbox {
    static SERVERS: OnceCell<Sandbox> = OnceCell::const_new();
    SERVERS
        .get_or_init(async || {
            let data_dir = std::env::temp_dir().join(format!("stampede-payment-books-{}", std::process::id()));
            let options =
                Options { data_dir, fresh: true, ephemeral: true, kafka: KafkaChoice::Apache, ..Options::default() };
            Sandbox::start(options).await.unwrap()
        })
        .await
}

/// Orders that are PAID by their payment unless told.
#[derive(Default, Clone)]
pub struct Orders(Arc<Mutex<HashMap<String, Order>>>);

#[derive(Default, Clone)]
struct Order {
    status: &'static str,
    paid_by: String,
}

impl Orders {
    pub fn set(&self, order: Uuid, status: &'static str) {
        self.0.lock().unwrap().entry(order.to_string()).or_default().status = status;
    }

    fn paid_by(&self, order: Uuid, payment: Uuid) {
        let paid = Order { status: "PAID", paid_by: payment.to_string() };
        self.0.lock().unwrap().insert(order.to_string(), paid);
    }

    fn get(&self, order_id: String) -> proto::Order {
        let Order { status, paid_by } = self.0.lock().unwrap().get(&order_id).cloned().unwrap_or_default();
        let (status, currency) = (status.to_owned(), "KRW".to_owned());
        proto::Order { order_id, status, amount: AMOUNT, currency, paid_payment_id: paid_by, ..Default::default() }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl OrderService for Orders {
    async fn get_order(&self, request: Request<proto::GetOrderRequest>) -> Answer<proto::GetOrderResponse> {
        Ok(Response::new(proto::GetOrderResponse { order: Some(self.get(request.into_inner().order_id)) }))
    }

    async fn mark_paid(&self, request: Request<proto::MarkPaidRequest>) -> Answer<proto::MarkPaidResponse> {
        Ok(Response::new(proto::MarkPaidResponse { order: Some(self.get(request.into_inner().order_id)) }))
    }

    async fn begin_payment(&self, _: Request<proto::BeginPaymentRequest>) -> Answer<proto::BeginPaymentResponse> {
        Err(Status::unimplemented("not here"))
    }

    async fn begin_approval(&self, _: Request<proto::BeginApprovalRequest>) -> Answer<proto::BeginApprovalResponse> {
        Err(Status::unimplemented("not here"))
    }

    async fn end_approval(&self, _: Request<proto::EndApprovalRequest>) -> Answer<proto::EndApprovalResponse> {
        Err(Status::unimplemented("not here"))
    }
}

pub struct Site {
    db: Db,
    running: Running,
    http: reqwest::Client,
    /// Its provider's alone: reconciliation gives back whatever is nobody's.
    provider: Fakes,
    pub orders: Orders,
    key: Vec<u8>,
    issuer: String,
}

impl Site {
    pub async fn start(name: &str) -> Site {
        let servers = servers().await;
        let provider = Fakes::start().await.unwrap();
        let (namespace, brokers) = (format!("{name}_"), servers.kafka_brokers());
        let (postgres, redis) = (servers.postgres_url(), servers.redis_url());
        let secrets = format!("{SECRET},{OLD_SECRET}");
        let overrides = [
            ("host.http_listen", "127.0.0.1:0"),
            ("host.grpc_listen", "127.0.0.1:0"),
            ("host.namespace", &namespace),
            ("postgres.url", &postgres),
            ("redis.url", &redis),
            ("kafka.brokers", &brokers),
            ("kafka.partitions", "1"),
            ("payment.naverpay.url", provider.url()),
            ("payment.naverpay.client_id", "id"),
            ("payment.naverpay.client_secret", "secret"),
            ("payment.naverpay.chain_id", "chain"),
            ("payment.webhooks.naverpay_secret", &secrets),
            // Nothing is too young to be judged.
            ("payment.reconciliation.grace_seconds", "0"),
        ];
        let overrides = overrides.map(|(key, value)| (key.to_owned(), value.to_owned()));
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
        let orders = Orders::default();
        host.grpc(OrderServiceServer::new(orders.clone()));
        payment::mount(&mut host).await.unwrap();
        let schema = common::host::schema(&namespace, "payment");
        let db = Db::open(&settings.section("postgres").unwrap(), &schema).await.unwrap();
        let running = host.start().await.unwrap();
        let issuer = settings.section::<common::auth::AuthSettings>("auth").unwrap().issuer;
        Site { db, running, http: reqwest::Client::new(), provider, orders, key, issuer }
    }

    pub async fn stop(self) {
        self.running.stop().await;
        self.provider.stop().await.unwrap();
    }

    // --- HTTP

    pub async fn call(&self, method: Method, path: &str, role: Role, body: Option<Value>) -> (StatusCode, Value) {
        let url = format!("http://{}/api/v1{path}", self.running.http_addr);
        let mut request = self.http.request(method, url).bearer_auth(self.token(role));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    /// Sends a webhook as a provider would.
    pub async fn webhook(&self, provider: &str, case: &Case) -> (StatusCode, String) {
        let url = format!("http://{}/api/v1/webhooks/pg/{provider}", self.running.http_addr);
        let mut request = self.http.post(url).body(case.body.clone());
        for (name, value) in &case.headers {
            request = request.header(*name, value.as_slice());
        }
        let answer = request.send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    fn token(&self, role: Role) -> String {
        let now = jsonwebtoken::get_current_timestamp();
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: AUDIENCE.to_owned(),
            sub: Uuid::now_v7(),
            jti: Uuid::now_v7(),
            iat: now,
            nbf: now,
            exp: now + 600,
            roles: vec![role.name().to_owned()],
        };
        let header =
            Header { typ: Some(TYP.to_owned()), kid: Some("test".to_owned()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(&self.key)).unwrap()
    }

    // --- the provider

    async fn ask_provider(&self, path: &str, body: Value) -> Value {
        let key = Uuid::new_v4().to_string();
        let request = self.http.post(format!("{}{path}", self.provider.url())).json(&body);
        let request = request.header("X-Naver-Client-Id", "id").header("X-Naver-Client-Secret", "secret");
        let request = request.header("X-NaverPay-Chain-Id", "chain").header("X-NaverPay-Idempotency-Key", key);
        request.send().await.unwrap().json().await.unwrap()
    }

    /// Has the provider take money, as if we had asked for it; returns the provider's name for it.
    pub async fn capture(&self, name: &str, amount: i64) -> String {
        let authorised = self.ask_provider("/checkout", json!({ "merchantPayKey": name, "amount": amount })).await;
        let pg = authorised["paymentId"].as_str().unwrap_or_else(|| panic!("{authorised}")).to_owned();
        let apply = "/naverpay-partner/naverpay/payments/v2.2/apply/payment";
        let taken = self.ask_provider(apply, json!({ "paymentId": pg })).await;
        assert_eq!(taken["code"], "Success", "{taken}");
        pg
    }

    pub async fn cancel(&self, pg: &str, amount: i64) {
        let path = "/naverpay-partner/naverpay/payments/v1/cancel";
        let body = json!({ "paymentId": pg, "cancelAmount": amount, "cancelReason": "behind our back" });
        let cancelled = self.ask_provider(path, body).await;
        assert_eq!(cancelled["code"], "Success", "{cancelled}");
    }

    /// What the shop has at the provider.
    pub async fn net(&self) -> i64 {
        let totals = self.http.get(format!("{}/book/totals", self.provider.url())).send().await.unwrap();
        totals.json::<Value>().await.unwrap()["net"].as_i64().unwrap()
    }

    // --- our payments

    /// A payment of 1,000 won that stands on `pg` and has long been at rest.
    pub async fn payment(&self, id: Uuid, status: &str, pg: &str) -> Uuid {
        let (order, attempt) = (Uuid::now_v7(), Uuid::now_v7());
        let captured = if ["PAID", "REFUNDED"].contains(&status) { AMOUNT } else { 0 };
        self.execute(&format!(
            "insert into payments (id, order_id, user_id, method, amount, currency, idempotency_key, fingerprint, status,
                 attempt_id, pg_payment_id, captured, expires_at, approving_since, updated_at)
             values ('{id}', '{order}', '{attempt}', 'NAVERPAY', {AMOUNT}, 'KRW', '{id}', '', '{status}',
                 '{attempt}', '{pg}', {captured}, now() + interval '1 minute', now() - interval '1 hour',
                 now() - interval '1 hour')"
        ))
        .await;
        self.execute(&format!(
            "insert into payment_attempt (id, payment_id, pg_payment_id, idempotency_key, amount)
             values ('{attempt}', '{id}', '{pg}', '{attempt}', {AMOUNT})"
        ))
        .await;
        self.orders.paid_by(order, id);
        order
    }

    async fn execute(&self, statement: &str) {
        diesel::sql_query(statement).execute(&mut self.db.read().await.unwrap()).await.unwrap();
    }

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
}

/// Waits until `is_so`.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
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
