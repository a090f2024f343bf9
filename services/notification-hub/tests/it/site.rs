//! A hub of its own for each test, on servers that all tests share.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::Host;
use common::auth::{AUDIENCE, Claims, Jwk, JwkSet, Role, TYP};
use common::db::Db;
use common::host::Running;
use common::outbox::Event;
use common::settings::Settings;
use contract::account::account_service_server::{AccountService, AccountServiceServer};
use contract::account::{Contact, GetContactsRequest, GetContactsResponse};
use contract::events::{OrderCreated, OrderLine, OrderPlaced, PaymentFailed, PaymentRefunded, PaymentUnknown};
use contract::ids::{AccountId, OrderId};
use diesel_async::SimpleAsyncConnection;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rdkafka::ClientConfig;
use rdkafka::message::{Header as KafkaHeader, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use reqwest::{Method, StatusCode};
use sandbox::{KafkaChoice, Options, Sandbox};
use serde_json::Value;
use tokio::sync::{OnceCell, Semaphore};
use tonic::{Request, Response, Status};
use uuid::Uuid;

/// Nothing here takes this long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub const USER: &str = "018f0000-0000-7000-8000-0000000000aa";
pub const STRANGER: &str = "018f0000-0000-7000-8000-0000000000bb";
pub const OPERATOR: &str = "018f0000-0000-7000-8000-0000000000cc";

/// What the hub hears.
const TOPICS: [&str; 5] =
    [OrderCreated::TOPIC, OrderPlaced::TOPIC, PaymentFailed::TOPIC, PaymentUnknown::TOPIC, PaymentRefunded::TOPIC];

async fn servers() -> &'static Sandbox {
    static SERVERS: OnceCell<Sandbox> = OnceCell::const_new();
    SERVERS
        .get_or_init(async || {
            let data_dir = std::env::temp_dir().join(format!("stampede-hub-{}", std::process::id()));
            let options =
                Options { data_dir, fresh: true, ephemeral: true, kafka: KafkaChoice::Apache, ..Options::default() };
            Sandbox::start(options).await.unwrap()
        })
        .await
}

/// Plays account: everybody has an address, except as told.
#[derive(Clone)]
pub struct PretendedAccount {
    pub unknown: Arc<Mutex<HashSet<String>>>,
    pub asked: Arc<Mutex<Vec<String>>>,
    /// An answer needs a permit. Closed means away.
    pub answers: Arc<Mutex<Arc<Semaphore>>>,
}

impl PretendedAccount {
    fn new() -> Self {
        let answers = Arc::new(Mutex::new(Arc::new(Semaphore::new(Semaphore::MAX_PERMITS))));
        Self { unknown: Arc::default(), asked: Arc::default(), answers }
    }

    /// From now on answers come at once.
    pub fn answer(&self) {
        self.hold().add_permits(Semaphore::MAX_PERMITS);
    }

    /// From now on nobody is answered until permits are added to what this returns.
    pub fn hold(&self) -> Arc<Semaphore> {
        let held = Arc::new(Semaphore::new(0));
        *self.answers.lock().unwrap() = held.clone();
        held
    }

    /// From now on account is away.
    pub fn go_away(&self) {
        self.hold().close();
    }
}

#[tonic::async_trait]
impl AccountService for PretendedAccount {
    async fn get_contacts(
        &self,
        request: Request<GetContactsRequest>,
    ) -> Result<Response<GetContactsResponse>, Status> {
        let user_ids = request.into_inner().user_ids;
        self.asked.lock().unwrap().extend(user_ids.clone());
        let answers = self.answers.lock().unwrap().clone();
        answers.acquire().await.map_err(|_| Status::unavailable("away"))?.forget();
        let unknown = self.unknown.lock().unwrap().clone();
        let contacts = user_ids
            .into_iter()
            .filter(|user_id| !unknown.contains(user_id))
            .map(|user_id| Contact { email: format!("{user_id}@example.com"), name: "Kim".to_owned(), user_id })
            .collect();
        Ok(Response::new(GetContactsResponse { contacts }))
    }
}

/// A running hub.
pub struct Site {
    pub account: PretendedAccount,
    pub db: Db,
    running: Running,
    producer: FutureProducer,
    namespace: String,
    http: reqwest::Client,
    key: Vec<u8>,
    issuer: String,
}

impl Site {
    pub async fn start(name: &str) -> Site {
        Self::start_with(name, &[]).await
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
            ("notification_hub.reclaim_period_ms", "100"),
            ("notification_hub.idle_poll_max_ms", "200"),
        ];
        overrides.extend_from_slice(settings);
        let overrides: Vec<_> = overrides.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let settings = Settings::load(&[], &overrides).unwrap();

        let mut host = Host::new(settings.clone()).await.unwrap();
        host.kafka().ensure_topics(&TOPICS).await.unwrap();
        let account = PretendedAccount::new();
        host.grpc(AccountServiceServer::new(account.clone()));
        let key = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap().as_ref().to_vec();
        let keys = published(&key);
        host.http_root(move |routes| {
            let keys = keys.clone();
            let answer = move || std::future::ready(actix_web::web::Json(keys.clone()));
            routes.route("/.well-known/jwks.json", actix_web::web::get().to(answer));
        });
        notification_hub::mount(&mut host).await.unwrap();
        let schema = common::host::schema(&namespace, "notification-hub");
        Site {
            account,
            db: Db::open(&settings.section("postgres").unwrap(), &schema).await.unwrap(),
            running: host.start().await.unwrap(),
            producer: ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap(),
            namespace,
            http: reqwest::Client::new(),
            key,
            issuer: settings.section::<common::auth::AuthSettings>("auth").unwrap().issuer,
        }
    }

    pub async fn stop(self) {
        self.running.stop().await;
    }

    /// Delivers the fact that `user` has ordered, as the order service's relay would.
    pub async fn order_created(&self, event_id: Uuid, order: &OrderCreated) {
        self.deliver(event_id, order).await;
    }

    /// Delivers any fact, under an id that follows from its key and version as with an outbox.
    pub async fn hears<E: Event>(&self, event: &E) {
        let version = event.version().to_be_bytes();
        let event_id = common::id::derive_uuid("event", &[E::TOPIC.as_bytes(), event.key().as_bytes(), &version]);
        self.deliver(event_id, event).await;
    }

    async fn deliver<E: Event>(&self, event_id: Uuid, event: &E) {
        let payload = serde_json::to_vec(event).unwrap();
        let (topic, event_id) = (format!("{}{}", self.namespace, E::TOPIC), event_id.to_string());
        let headers = OwnedHeaders::new().insert(KafkaHeader { key: "ce_id", value: Some(&event_id) });
        let record = FutureRecord::to(&topic).key(event.key()).payload(&payload).headers(headers);
        self.producer.send(record, PATIENCE).await.unwrap();
    }

    pub fn token(&self, user: &str, role: Role) -> String {
        let now = jsonwebtoken::get_current_timestamp();
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: AUDIENCE.to_owned(),
            sub: user.parse().unwrap(),
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

    pub async fn call(&self, method: Method, path: &str, user: &str, role: Role) -> (StatusCode, Value) {
        let url = format!("http://{}/api/v1{path}", self.running.http_addr);
        let answer = self.http.request(method, url).bearer_auth(self.token(user, role)).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    /// What `USER` sees under `path`.
    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.call(Method::GET, path, USER, Role::User).await
    }

    /// The user's newest notification, once `is_so` is true of it.
    pub async fn notification(&self, is_so: impl Fn(&Value) -> bool) -> Value {
        self.notification_of(USER, Role::User, is_so).await
    }

    /// The newest notification that an operator sees, once `is_so` is true of it.
    pub async fn operators(&self, is_so: impl Fn(&Value) -> bool) -> Value {
        self.notification_of(OPERATOR, Role::Admin, is_so).await
    }

    async fn notification_of(&self, user: &str, role: Role, is_so: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let (_, page) = self.call(Method::GET, "/notifications", user, role).await;
            match &page["items"][0] {
                item if !item.is_null() && is_so(item) => return item.clone(),
                item => assert!(started.elapsed() < PATIENCE, "it stays {item}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Everything that an operator sees, once `is_so` is true of every one of `count` notifications.
    pub async fn all(&self, count: usize, is_so: impl Fn(&Value) -> bool) -> Vec<Value> {
        let started = Instant::now();
        loop {
            let (_, page) = self.call(Method::GET, "/notifications?limit=100", OPERATOR, Role::Admin).await;
            match page["items"].as_array() {
                Some(items) if items.len() == count && items.iter().all(&is_so) => return items.clone(),
                _ => assert!(started.elapsed() < PATIENCE, "it stays {page}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn sql(&self, statement: &str) {
        self.db.read().await.unwrap().batch_execute(statement).await.unwrap();
    }
}

/// An order of `user`, the same for the same `name`.
pub fn order(name: &str, user: &str) -> (Uuid, OrderCreated) {
    let order_id = OrderId::derive(&[name.as_bytes(), user.as_bytes()]);
    let line = OrderLine {
        product_id: Uuid::now_v7().to_string(),
        name: "Sneaker".to_owned(),
        quantity: 2,
        unit_price: 129_000,
    };
    let order = OrderCreated {
        order_id: order_id.to_string(),
        user_id: user.parse::<AccountId>().unwrap().to_string(),
        version: 1,
        items: vec![line],
        amount: 258_000,
        currency: "KRW".to_owned(),
        hold_expires_at: None,
        created_at: None,
    };
    (common::id::derive_uuid("event", &[order_id.as_bytes()]), order)
}

/// True of a notification of this overall status.
pub fn is(status: &str) -> impl Fn(&Value) -> bool {
    move |notification| notification["status"] == status
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
