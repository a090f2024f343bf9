//! Before the clock starts: a product that cannot sell out, and buyers who are logged in.

use anyhow::Context;
use client::{Client, NewProduct};
use common::auth::AuthSettings;
use common::db::{Db, DbSettings};
use common::host::{HostSettings, schema};
use serde_json::json;
use uuid::Uuid;

use super::load::Job;
use crate::demo;
use crate::site::Site;

/// The most that a stock may have.
const STOCK: i64 = 1_000_000_000;
/// In whole won.
const PRICE: i64 = 129_000;

/// What our own load orders, and who orders it.
pub struct HotProduct {
    /// `host:port`.
    address: String,
    id: String,
    /// The buyers' access tokens.
    tokens: Vec<String>,
}

impl HotProduct {
    pub async fn create(site: &Site, buyers: usize) -> anyhow::Result<HotProduct> {
        let host: HostSettings = site.settings().section("host")?;
        let postgres: DbSettings = site.settings().section("postgres")?;
        let auth: AuthSettings = site.settings().section("auth")?;
        let db = Db::open(&postgres, &schema(&host.namespace, "account")).await?;
        let buyers = account::prepare_buyers(&db, &auth, buyers).await?;
        let anyone = Client::for_load(site.api(), 1)?;
        let people = demo::log_in(site.settings(), &anyone).await?;
        let admin = demo::with_role(&people, "ADMIN")?;
        let new = NewProduct { sku: "BENCH-1", name: "Bench Sneaker", price: PRICE, stock: STOCK, max_per_user: None };
        let created = admin.create_product(&new).await.context("creating the product")?;
        Ok(HotProduct {
            address: site.api().strip_prefix("http://").context("the site speaks no plain HTTP")?.to_owned(),
            id: created.context("there is a product BENCH-1 already")?.to_string(),
            tokens: buyers.into_iter().map(|buyer| buyer.access_token).collect(),
        })
    }

    pub fn id(&self) -> anyhow::Result<Uuid> {
        self.id.parse().context("the product's id")
    }

    /// Orders of one unit, each paid by its buyer if `pays`.
    pub fn job(&self, connections: usize, seconds: u64, pays: bool) -> Job {
        Job {
            address: self.address.clone(),
            first_path: format!("/api/v1/products/{}", self.id),
            paths: vec!["/api/v1/orders".to_owned()],
            body: json!({ "items": [{ "productId": self.id, "quantity": 1 }] }).to_string(),
            tokens: self.tokens.clone(),
            tickets: Vec::new(),
            expected: 201,
            connections,
            seconds: seconds as f64,
            pays,
        }
    }
}
