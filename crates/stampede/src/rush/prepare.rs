//! Before the clock starts: a product nobody has seen, and buyers who are logged in.

use std::time::Duration;

use anyhow::Context;
use common::auth::AuthSettings;
use common::db::{Db, DbSettings};
use common::host::{HostSettings, schema};
use common::settings::Settings;
use diesel::sql_types;
use diesel_async::RunQueryDsl;
use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use super::api::{Api, Buyer};

/// People who register at the same time. The service hashes two passwords at a time and lets a few wait.
const SAMPLE_PARALLEL: usize = 4;
/// A site that limits log-ins strictly lets only some of the sample in; the rush does not wait for the others.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(30);
/// In whole won.
const PRICE: i64 = 129_000;

/// Who is there when the clock starts.
pub struct Crowd {
    pub buyers: Vec<Buyer>,
    /// How many of them registered and logged in over the API.
    pub registered: usize,
}

/// Opens the schema of account, as an operator may.
pub async fn account_db(settings: &Settings) -> anyhow::Result<Db> {
    let host: HostSettings = settings.section("host")?;
    let postgres: DbSettings = settings.section("postgres")?;
    Db::open(&postgres, &schema(&host.namespace, "account")).await
}

/// Creates a product with `stock` units over the API and returns its id.
///
/// The administrator is made for this one request and is an ordinary user again afterwards.
pub async fn product(api: &Api, db: &Db, stock: u64) -> anyhow::Result<Uuid> {
    let deadline = Instant::now() + SAMPLE_TIMEOUT;
    let (email, password) = (format!("rush-{}@example.com", Uuid::new_v4().simple()), Uuid::new_v4().to_string());
    let admin = api.register(&email, &password, deadline).await.context("registering an administrator")?;
    set_role(db, admin, "ADMIN").await?;
    let product = json!({
        "sku": format!("RUSH-{}", Uuid::now_v7().simple()),
        "name": "Rush Sneaker",
        "price": { "amount": PRICE, "currency": contract::money::KRW },
        "initialStock": stock,
    });
    let created = async {
        let token = api.log_in(&email, &password, deadline).await?;
        api.create_product(&token, &product).await
    };
    let created = created.await;
    set_role(db, admin, "USER").await?;
    created.context("creating the product")
}

async fn set_role(db: &Db, user: Uuid, role: &'static str) -> anyhow::Result<()> {
    let statement = diesel::sql_query("update users set role = $2 where id = $1")
        .bind::<sql_types::Uuid, _>(user)
        .bind::<sql_types::Text, _>(role);
    statement.execute(&mut *db.read().await?).await?;
    Ok(())
}

/// `count` buyers: `sample` of them, as far as the site lets them in time, come in by the front door, the others are
/// prepared in bulk.
pub async fn crowd(api: &Api, db: &Db, auth: &AuthSettings, count: usize, sample: usize) -> anyhow::Result<Crowd> {
    let deadline = Instant::now() + SAMPLE_TIMEOUT;
    let arrivals = stream::iter(0..sample.min(count)).map(|_| arrive(api, deadline)).buffer_unordered(SAMPLE_PARALLEL);
    let arrivals: Vec<anyhow::Result<Buyer>> = arrivals.collect().await;
    let mut buyers = Vec::with_capacity(count);
    let mut turned_away = None;
    for arrival in arrivals {
        match arrival {
            Ok(buyer) => buyers.push(buyer),
            Err(error) => turned_away = Some(error),
        }
    }
    if let Some(error) = turned_away {
        tracing::warn!("Only {} of {sample} buyers could log in: {error:#}", buyers.len());
    }
    let registered = buyers.len();
    for prepared in account::prepare_buyers(db, auth, count - registered).await? {
        buyers.push(Buyer::new(prepared.account.uuid(), &prepared.access_token)?);
    }
    Ok(Crowd { buyers, registered })
}

async fn arrive(api: &Api, deadline: Instant) -> anyhow::Result<Buyer> {
    let (email, password) = (format!("buyer-{}@example.com", Uuid::new_v4().simple()), Uuid::new_v4().to_string());
    let account = api.register(&email, &password, deadline).await?;
    Buyer::new(account, &api.log_in(&email, &password, deadline).await?)
}
