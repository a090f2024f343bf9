//! The demo: accounts to log in with, products to order, coupons, and a concert whose sale opens soon.

use std::time::Duration;

use anyhow::Context;
use chrono::{SecondsFormat, TimeDelta, Utc};
use client::{Client, NewConcert, NewProduct, NewSeats};
use common::settings::Settings;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

/// A site that has just started may be busy.
const LOG_IN_TIMEOUT: Duration = Duration::from_secs(30);

/// For sale on a fresh site.
const PRODUCTS: [NewProduct<'_>; 3] = [
    NewProduct {
        sku: "HOT-DROP-1",
        name: "한정판 스니커즈 (Limited sneaker)",
        price: 129_000,
        stock: 500,
        max_per_user: Some(2),
    },
    NewProduct {
        sku: "PLAIN-TEE-1",
        name: "무지 티셔츠 (Plain tee)",
        price: 19_000,
        stock: 10_000,
        max_per_user: None,
    },
    NewProduct {
        sku: "LAST-ONE-1", name: "마지막 하나 (The last one)", price: 990_000, stock: 1, max_per_user: None
    },
];

/// 500 seats.
const SEATS: [NewSeats<'_>; 2] = [
    NewSeats { sku: "RECITAL-R", name: "R석 (Front)", price: 150_000, row: "R", count: 200 },
    NewSeats { sku: "RECITAL-S", name: "S석 (Balcony)", price: 90_000, row: "S", count: 300 },
];

/// One of the setting `account.demo_accounts`.
#[derive(Debug, Clone, Deserialize)]
pub struct Account {
    pub email: String,
    pub password: String,
    pub role: String,
}

/// A demo account that is logged in.
pub struct Person {
    pub account: Account,
    pub client: Client,
}

/// The accounts of `settings`, logged in over the API of `anyone`.
pub async fn log_in(settings: &Settings, anyone: &Client) -> anyhow::Result<Vec<Person>> {
    let deadline = Instant::now() + LOG_IN_TIMEOUT;
    let accounts: Vec<Account> = settings.section("account.demo_accounts")?;
    let mut people = Vec::new();
    for account in accounts {
        let token = anyone.access_token(&account.email, &account.password, deadline).await?;
        people.push(Person { account, client: anyone.with_token(&token) });
    }
    Ok(people)
}

/// The first one with this role, `ADMIN` or `USER`.
pub fn with_role<'a>(people: &'a [Person], role: &str) -> anyhow::Result<&'a Client> {
    let found = people.iter().find(|person| person.account.role == role);
    Ok(&found.with_context(|| format!("account.demo_accounts has no account with the role {role}"))?.client)
}

/// Creates the products that are missing. Returns the id of the hot one.
pub async fn create_products(admin: &Client) -> anyhow::Result<Uuid> {
    for product in &PRODUCTS {
        admin.create_product(product).await.with_context(|| format!("creating the product {}", product.sku))?;
    }
    admin.find_product(PRODUCTS[0].sku).await
}

/// Creates the coupons that are missing: one of which there are a thousand, and one that is sold out. Returns the id of the
/// first.
pub async fn create_coupons(admin: &Client, buyer: &Client) -> anyhow::Result<Uuid> {
    // The same at every start, so that its key gives the same coupon.
    let coupon = |name: &str, total: i64| {
        json!({
            "name": name,
            "discount": { "kind": "PERCENT", "value": 10 },
            "currency": "KRW",
            "maximumDiscount": 20_000,
            "total": total,
            "startsAt": "2026-01-01T00:00:00Z",
            "expiresAt": "2036-01-01T00:00:00Z",
            "restoredOnRefund": true,
        })
    };
    let open = coupon("선착순 1,000명 10% (First thousand)", 1000);
    let open = admin.create_coupon("demo-first-thousand", &open).await.context("creating the first coupon")?;
    let sold_out = coupon("선착순 1명 10% (Sold out)", 1);
    let sold_out = admin.create_coupon("demo-sold-out", &sold_out).await.context("creating the second coupon")?;
    buyer.issue_coupon(sold_out).await.context("issuing the second coupon")?;
    Ok(open)
}

/// Creates what is missing of a concert with 500 seats and of its sale, which has a waiting room and opens `sale_in` after
/// the first start. Returns the id of the concert.
pub async fn create_concert(admin: &Client, sale_in: TimeDelta) -> anyhow::Result<Uuid> {
    let concert = NewConcert {
        title: "겨울 리사이틀 (Winter recital)",
        starts_at: "2036-01-01T10:00:00Z",
        max_per_user: 4,
        queue_manage_required: true,
    };
    let concert = admin.create_concert(&concert).await.context("creating the concert")?;
    let mut products = Vec::new();
    for seats in &SEATS {
        products.push(admin.add_seats(concert, seats).await.with_context(|| format!("adding seats {}", seats.row))?);
    }
    let opens_at = (Utc::now() + sale_in).to_rfc3339_opts(SecondsFormat::Millis, true);
    let sale = json!({
        "name": "겨울 리사이틀 예매 (Winter recital)",
        "opensAt": opens_at,
        "productIds": products,
        "queueManageRequired": true,
    });
    admin.schedule_event("demo-recital", &sale).await.context("scheduling the sale of the concert")?;
    Ok(concert)
}
