//! Before the clock starts: a product nobody has seen, and buyers who are logged in.

use std::time::Duration;

use anyhow::Context;
use chrono::{TimeDelta, Utc};
use client::{Buyer, Client, NewProduct, fresh_key};
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

use super::coupons::Offer;

/// Buyers who register at the same time. The service hashes two passwords at a time and lets a few wait.
const SAMPLE_PARALLEL: usize = 4;
/// A site that limits log-ins strictly refuses some of the sample; the rush does not wait for them.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(30);
/// In whole won.
const PRICE: i64 = 129_000;
/// What a coupon takes off.
const DISCOUNT: i64 = 10_000;
/// More than anybody orders.
const BAIT_STOCK: u64 = 1_000_000;
const NAME: &str = "Rush Buyer";

/// The buyers, all logged in.
pub struct Buyers {
    pub all: Vec<Buyer>,
    /// How many of them registered and logged in over the API.
    pub registered: usize,
}

/// Opens the schema of account, as an operator may.
pub async fn account_db(settings: &Settings) -> anyhow::Result<Db> {
    let host: HostSettings = settings.section("host")?;
    let postgres: DbSettings = settings.section("postgres")?;
    Db::open(&postgres, &schema(&host.namespace, "account")).await
}

/// What an administrator has made for the rush.
pub struct Goods {
    pub product: Uuid,
    pub offer: Option<Offer>,
}

/// Creates a product with `stock` units over the API, and a coupon of which there are `coupons`.
///
/// The administrator is made for this and is an ordinary user again afterwards.
pub async fn goods(client: &Client, db: &Db, stock: u64, coupons: Option<u64>) -> anyhow::Result<Goods> {
    let admin = Administrator::make(client, db).await?;
    let created = async {
        let product = admin.product(stock).await?;
        let offer = match coupons {
            Some(total) => Some(admin.offer(total).await?),
            None => None,
        };
        Ok(Goods { product, offer })
    };
    let created = created.await;
    admin.resign(db).await?;
    created
}

/// Somebody who is an administrator for as long as the rush needs one.
pub struct Administrator {
    id: Uuid,
    pub client: Client,
}

impl Administrator {
    pub async fn make(client: &Client, db: &Db) -> anyhow::Result<Administrator> {
        let deadline = Instant::now() + SAMPLE_TIMEOUT;
        let (email, password) = (format!("rush-{}@example.com", Uuid::new_v4().simple()), Uuid::new_v4().to_string());
        let id = client.register(&email, &password, NAME, deadline).await.context("registering an administrator")?;
        set_role(db, id, "ADMIN").await?;
        match client.access_token(&email, &password, deadline).await {
            Ok(token) => Ok(Administrator { id, client: client.with_token(&token) }),
            Err(error) => {
                set_role(db, id, "USER").await?;
                Err(error.context("logging an administrator in"))
            }
        }
    }

    pub async fn product(&self, stock: u64) -> anyhow::Result<Uuid> {
        let sku = format!("RUSH-{}", Uuid::now_v7().simple());
        let stock = i64::try_from(stock)?;
        let product = NewProduct { sku: &sku, name: "Rush Sneaker", price: PRICE, stock, max_per_user: None };
        let created = self.client.create_product(&product).await;
        created.context("creating the product")?.with_context(|| format!("there is a product {sku} already"))
    }

    async fn offer(&self, total: u64) -> anyhow::Result<Offer> {
        let now = Utc::now();
        let terms = json!({
            "name": "Rush coupon",
            "discount": { "kind": "FIXED", "value": DISCOUNT },
            "currency": "KRW",
            // Something is always left to pay.
            "minimumAmount": DISCOUNT + 1,
            "total": total,
            "startsAt": now - TimeDelta::minutes(1),
            "expiresAt": now + TimeDelta::hours(1),
            "restoredOnRefund": true,
        });
        let coupon = self.client.create_coupon(&fresh_key(), &terms).await.context("creating the coupon")?;
        Ok(Offer { coupon, total, discount: DISCOUNT, bait: self.product(BAIT_STOCK).await? })
    }

    /// They are an ordinary user again.
    pub async fn resign(self, db: &Db) -> anyhow::Result<()> {
        set_role(db, self.id, "USER").await
    }
}

async fn set_role(db: &Db, user: Uuid, role: &'static str) -> anyhow::Result<()> {
    let statement = diesel::sql_query("update users set role = $2 where id = $1")
        .bind::<sql_types::Uuid, _>(user)
        .bind::<sql_types::Text, _>(role);
    db.tx("set_role", async |tx| Ok(statement.execute(tx).await?)).await?;
    Ok(())
}

/// `count` buyers: `sample` of them, as far as the site lets them in time, register and log in over the API, the others
/// are prepared in bulk.
pub async fn buyers(
    client: &Client,
    db: &Db,
    auth: &AuthSettings,
    count: usize,
    sample: usize,
) -> anyhow::Result<Buyers> {
    let deadline = Instant::now() + SAMPLE_TIMEOUT;
    let registering = stream::iter(0..sample.min(count)).map(|_| register(client, deadline));
    let registered: Vec<anyhow::Result<Buyer>> = registering.buffer_unordered(SAMPLE_PARALLEL).collect().await;
    let mut all = Vec::with_capacity(count);
    let mut refused = None;
    for buyer in registered {
        match buyer {
            Ok(buyer) => all.push(buyer),
            Err(error) => refused = Some(error),
        }
    }
    if let Some(error) = refused {
        let let_in = all.len();
        tracing::warn!(
            "Only {let_in} of {sample} buyers could register and log in; the others are prepared: {error:#}"
        );
    }
    let registered = all.len();
    for prepared in account::prepare_buyers(db, auth, count - registered).await? {
        all.push(Buyer::new(prepared.account.uuid(), &prepared.access_token)?);
    }
    Ok(Buyers { all, registered })
}

async fn register(client: &Client, deadline: Instant) -> anyhow::Result<Buyer> {
    let (email, password) = (format!("buyer-{}@example.com", Uuid::new_v4().simple()), Uuid::new_v4().to_string());
    let account = client.register(&email, &password, NAME, deadline).await?;
    Ok(Buyer::new(account, &client.access_token(&email, &password, deadline).await?)?)
}
