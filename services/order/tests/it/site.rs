//! An order service of its own for each test, on servers that all tests share. Inventory is played: it holds everything.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use common::auth::{AUDIENCE, Claims, Role, TYP};
use common::db::Db;
use common::host::Running;
use common::outbox::Event;
use common::settings::Settings;
use common::{Error, Host};
use contract::inventory::inventory_service_server::InventoryServiceServer;
use contract::order::order_service_client::OrderServiceClient;
use contract::order::{
    BeginApprovalRequest, BeginPaymentRequest, EndApprovalRequest, GetOrderRequest, MarkPaidRequest, Order,
};
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Text, Timestamptz};
use diesel_async::RunQueryDsl;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rdkafka::ClientConfig;
use rdkafka::message::{Header as KafkaHeader, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use reqwest::{Method, StatusCode};
use sandbox::{KafkaChoice, Options, Sandbox};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tonic::transport::Channel;
use uuid::Uuid;

use self::inventory::PretendedInventory;

mod inventory;
mod keys;

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(120);
/// What every order here costs.
pub const AMOUNT: i64 = 2000;
pub const KRW: &str = "KRW";

async fn servers() -> &'static Sandbox {
    static SERVERS: OnceCell<Sandbox> = OnceCell::const_new();
    SERVERS
        .get_or_init(async || {
            let data_dir = std::env::temp_dir().join(format!("stampede-order-{}", std::process::id()));
            let options =
                Options { data_dir, fresh: true, ephemeral: true, kafka: KafkaChoice::Apache, ..Options::default() };
            Sandbox::start(options).await.unwrap()
        })
        .await
}

/// A running order service.
pub struct Site {
    pub db: Db,
    pub inventory: PretendedInventory,
    namespace: String,
    running: Running,
    pub rpc: OrderServiceClient<Channel>,
    http: reqwest::Client,
    producer: FutureProducer,
    key: Vec<u8>,
    issuer: String,
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

    /// The code of a refusal, or the order's status.
    pub fn outcome(&self) -> (u16, String) {
        let body = self.json();
        let told = if self.status.is_success() { &body["status"] } else { &body["code"] };
        (self.status.as_u16(), told.as_str().unwrap().to_owned())
    }
}

/// An order that was placed here.
#[derive(Debug, Clone)]
pub struct Placed {
    pub id: String,
    pub user: Uuid,
}

impl Site {
    pub async fn start(name: &str) -> Site {
        Self::start_with(name, &[]).await
    }

    /// Another replica of `first`, on the same data.
    pub async fn start_beside(first: &Site) -> Site {
        Self::start_with(first.namespace.trim_end_matches('_'), &[]).await
    }

    /// `settings` are added to those that make tests quick.
    pub async fn start_with(name: &str, settings: &[(&str, &str)]) -> Site {
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
            ("order.expire_sweep_ms", "50"),
        ];
        overrides.extend_from_slice(settings);
        let overrides: Vec<_> = overrides.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let settings = Settings::load(&[], &overrides).unwrap();

        let mut host = Host::new(settings.clone()).await.unwrap();
        host.kafka().ensure_topics(&contract::events::TOPICS).await.unwrap();
        let inventory = PretendedInventory::default();
        host.grpc(InventoryServiceServer::new(inventory.clone()));
        let key = keys::new_key();
        let keys = keys::published(&key);
        host.http_root(move |routes| {
            let keys = keys.clone();
            let answer = move || std::future::ready(actix_web::web::Json(keys.clone()));
            routes.route("/.well-known/jwks.json", actix_web::web::get().to(answer));
        });
        order::mount(&mut host).await.unwrap();
        let schema = common::host::schema(&namespace, "order");
        let db = Db::open(&settings.section("postgres").unwrap(), &schema).await.unwrap();
        let running = host.start().await.unwrap();
        let channel = Channel::from_shared(format!("http://{}", running.grpc_addr)).unwrap().connect_lazy();
        Site {
            db,
            inventory,
            namespace,
            rpc: OrderServiceClient::new(channel),
            running,
            http: reqwest::Client::new(),
            producer: ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap(),
            key,
            issuer: settings.section::<common::auth::AuthSettings>("auth").unwrap().issuer,
        }
    }

    pub async fn stop(self) {
        self.running.stop().await;
    }

    // --- HTTP

    pub async fn call(
        &self,
        method: Method,
        path: &str,
        user: Uuid,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Answer {
        let url = format!("http://{}/api/v1{path}", self.running.http_addr);
        let mut request = self.http.request(method, url).bearer_auth(self.token(user));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        Answer { status: answer.status(), headers: answer.headers().clone(), text: answer.text().await.unwrap() }
    }

    fn token(&self, user: Uuid) -> String {
        let now = jsonwebtoken::get_current_timestamp();
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: AUDIENCE.to_owned(),
            sub: user,
            jti: Uuid::now_v7(),
            iat: now,
            nbf: now,
            exp: now + 600,
            roles: vec![Role::User.name().to_owned()],
        };
        let header =
            Header { typ: Some(TYP.to_owned()), kid: Some("test".to_owned()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(&self.key)).unwrap()
    }

    /// Places an order of two sneakers, which is the same for the same key.
    pub async fn place(&self, user: Uuid, key: &str) -> Answer {
        let sneaker = Uuid::from_u128(0x018f_0000_0000_7000_8000_0000_0000_00cc);
        let body = json!({ "items": [{ "productId": sneaker, "quantity": 2 }] });
        self.call(Method::POST, "/orders", user, &[("Idempotency-Key", key)], Some(body)).await
    }

    /// An order of somebody new.
    pub async fn order(&self) -> Placed {
        self.order_of(Uuid::now_v7()).await
    }

    pub async fn order_of(&self, user: Uuid) -> Placed {
        let answer = self.place(user, &Uuid::now_v7().to_string()).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        Placed { id: answer.json()["orderId"].as_str().unwrap().to_owned(), user }
    }

    pub async fn read(&self, order: &Placed) -> Value {
        let answer = self.call(Method::GET, &format!("/orders/{}", order.id), order.user, &[], None).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()
    }

    /// The owner's orders of this status.
    pub async fn listed(&self, user: Uuid, status: &str) -> Vec<String> {
        let answer = self.call(Method::GET, &format!("/orders?status={status}"), user, &[], None).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let page = answer.json();
        let items = page["items"].as_array().unwrap();
        items.iter().map(|order| order["orderId"].as_str().unwrap().to_owned()).collect()
    }

    pub async fn cancel(&self, order: &Placed) -> Answer {
        let body = Some(json!({ "reason": "too small" }));
        self.call(Method::POST, &format!("/orders/{}/cancel", order.id), order.user, &[], body).await
    }

    // --- gRPC, with the right money

    pub async fn begin_payment(&self, order: &Placed, payment: Uuid) -> Result<Order, Error> {
        let request = BeginPaymentRequest {
            order_id: order.id.clone(),
            payment_id: payment.to_string(),
            user_id: order.user.to_string(),
            amount: AMOUNT,
            currency: KRW.to_owned(),
        };
        Ok(self.rpc.clone().begin_payment(request).await?.into_inner().order.unwrap())
    }

    pub async fn begin(&self, order: &Placed, payment: Uuid, attempt: Uuid) -> Result<Order, Error> {
        let request = BeginApprovalRequest {
            order_id: order.id.clone(),
            payment_id: payment.to_string(),
            attempt_id: attempt.to_string(),
            amount: AMOUNT,
            currency: KRW.to_owned(),
        };
        Ok(self.rpc.clone().begin_approval(request).await?.into_inner().order.unwrap())
    }

    pub async fn end(
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

    pub async fn get(&self, order: &Placed) -> Order {
        let request = GetOrderRequest { order_id: order.id.clone() };
        self.rpc.clone().get_order(request).await.unwrap().into_inner().order.unwrap()
    }

    // --- Kafka

    /// Delivers `event` as its producer's relay would, under an id of its own: the inbox takes no repeat for one.
    pub async fn deliver<E: Event>(&self, event: &E) {
        let topic = format!("{}{}", self.namespace, E::TOPIC);
        let payload = serde_json::to_vec(event).unwrap();
        let event_id = Uuid::now_v7().to_string();
        let headers = OwnedHeaders::new().insert(KafkaHeader { key: "ce_id", value: Some(&event_id) });
        let record = FutureRecord::to(&topic).key(event.key()).payload(&payload).headers(headers);
        self.producer.send(record, PATIENCE).await.unwrap();
    }

    /// Waits until that many events have been applied here, none of which had to be parked.
    pub async fn heard(&self, events: i64) {
        until("the events are heard", async || self.number("select count(*) from inbox").await >= events).await;
        assert_eq!(self.number("select count(*) from parked").await, 0);
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

    /// As if its hold had been taken for so long.
    pub async fn set_expiry(&self, order: &Placed, at: DateTime<Utc>) {
        let set = diesel::sql_query("update orders set hold_expires_at = $1 where id = $2::uuid");
        let set = set.bind::<Timestamptz, _>(at).bind::<Text, _>(&order.id);
        assert_eq!(set.execute(&mut self.db.read().await.unwrap()).await.unwrap(), 1);
    }

    /// What has been said of `order`, in the order of the versions: `ORDER_CREATED 1`, ...
    pub async fn said(&self, order: &Placed) -> Vec<String> {
        self.outbox(order).await.into_iter().map(|(what, _)| what).collect()
    }

    /// The same, with the payloads.
    pub async fn outbox(&self, order: &Placed) -> Vec<(String, Value)> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = Text)]
            what: String,
            #[diesel(sql_type = Text)]
            payload: String,
        }
        let rows: Vec<Row> = diesel::sql_query(
            "select topic || ' ' || aggregate_version as what, payload
               from outbox_events
              where key = $1
              order by aggregate_version",
        )
        .bind::<Text, _>(&order.id)
        .load(&mut self.db.read().await.unwrap())
        .await
        .unwrap();
        rows.into_iter().map(|row| (row.what, serde_json::from_str(&row.payload).unwrap())).collect()
    }

    /// How many events of each topic the outbox has.
    pub async fn told(&self) -> HashMap<String, i64> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = Text)]
            topic: String,
            #[diesel(sql_type = BigInt)]
            events: i64,
        }
        let rows: Vec<Row> = diesel::sql_query("select topic, count(*) as events from outbox_events group by topic")
            .load(&mut self.db.read().await.unwrap())
            .await
            .unwrap();
        rows.into_iter().map(|row| (row.topic, row.events)).collect()
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

/// When the order's time is up.
pub fn expiry(order: &Order) -> DateTime<Utc> {
    DateTime::<Utc>::try_from(order.hold_expires_at.unwrap()).unwrap()
}

/// Waits until `is_so`.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
