//! Before the clock starts: a product that cannot sell out, buyers who are logged in, and tables for pgbench.

use anyhow::Context;
use common::auth::AuthSettings;
use common::db::{Db, DbSettings};
use common::host::{HostSettings, schema};
use diesel_async::SimpleAsyncConnection;
use serde::Deserialize;
use serde_json::{Value, json};

use super::load::Job;
use super::pgbench::SCRATCH;
use crate::audit::Ledger;
use crate::site::Site;

/// Buyers who take turns. Each token's signature is checked when it is seen first, and remembered, as for buyers who
/// look around before they order.
pub const BUYERS: usize = 5_000;
/// The most that a stock may have.
const STOCK: i64 = 1_000_000_000;
/// In whole won.
const PRICE: i64 = 129_000;

/// What our own load needs.
pub struct Shop {
    address: String,
    product: String,
    tokens: Vec<String>,
}

impl Shop {
    pub async fn open(site: &Site) -> anyhow::Result<Shop> {
        let host: HostSettings = site.settings().section("host")?;
        let postgres: DbSettings = site.settings().section("postgres")?;
        let auth: AuthSettings = site.settings().section("auth")?;
        let db = Db::open(&postgres, &schema(&host.namespace, "account")).await?;
        let buyers = account::prepare_buyers(&db, &auth, BUYERS).await?;
        let address = site.api().strip_prefix("http://").context("the site speaks no plain HTTP")?.to_owned();
        let product = product(site).await.context("creating the product")?;
        Ok(Shop { address, product, tokens: buyers.into_iter().map(|buyer| buyer.access_token).collect() })
    }

    /// Orders, each paid by its buyer if `pays`.
    pub fn job(&self, connections: usize, seconds: u64, pays: bool) -> Job {
        Job {
            address: self.address.clone(),
            first_path: format!("/api/v1/products/{}", self.product),
            order: json!({ "items": [{ "productId": self.product, "quantity": 1 }] }).to_string(),
            tokens: self.tokens.clone(),
            connections,
            seconds: seconds as f64,
            pays,
        }
    }
}

async fn product(site: &Site) -> anyhow::Result<String> {
    #[derive(Deserialize)]
    struct Account {
        email: String,
        password: String,
        role: String,
    }
    let accounts: Vec<Account> = site.settings().section("account.demo_accounts")?;
    let admin = accounts.iter().find(|account| account.role == "ADMIN").context("the demo has no administrator")?;
    let client = reqwest::Client::new();
    let post = async |path: &str, token: &str, body: &Value| -> anyhow::Result<Value> {
        let request = client.post(format!("{}/api/v1/{path}", site.api())).bearer_auth(token).json(body);
        Ok(request.send().await?.error_for_status()?.json().await?)
    };
    let log_in = json!({ "email": admin.email, "password": admin.password });
    let logged_in = client.post(format!("{}/api/v1/auth/login", site.api())).json(&log_in).send().await?;
    let logged_in: Value = logged_in.error_for_status()?.json().await?;
    let token = logged_in["accessToken"].as_str().context("the log-in answered without a token")?;
    let product = json!({
        "sku": "BENCH-1",
        "name": "Bench Sneaker",
        "price": { "amount": PRICE, "currency": contract::money::KRW },
        "initialStock": STOCK,
    });
    let created = post("admin/products", token, &product).await?;
    Ok(created["productId"].as_str().context("a product without an id")?.to_owned())
}

/// Makes pgbench's tables. There must have been an order already: its event serves as the pattern.
pub async fn scratch(site: &Site, ledger: &Ledger) -> anyhow::Result<()> {
    let host: HostSettings = site.settings().section("host")?;
    let postgres: DbSettings = site.settings().section("postgres")?;
    let db = Db::open(&postgres, &schema(&host.namespace, "order")).await?;
    let statements = ledger.spelt(include_str!("scratch.sql")).replace("{scratch}", SCRATCH);
    db.dedicated().await?.batch_execute(&statements).await.context("creating the tables for pgbench")
}
