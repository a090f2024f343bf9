//! What has to exist before anybody buys: accounts, access tokens and products.

use anyhow::Context;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use crate::Client;

/// A concert as its creator asks for it.
pub struct NewConcert<'a> {
    pub title: &'a str,
    pub starts_at: &'a str,
    /// Seats that one account may have.
    pub max_per_user: i64,
    /// Seats are had with a pass of a waiting room only.
    pub queue_manage_required: bool,
}

/// Seats of one price, labelled `row-1` to `row-count`.
#[derive(Debug, Clone, Copy)]
pub struct NewSeats<'a> {
    pub sku: &'a str,
    pub name: &'a str,
    /// In won.
    pub price: i64,
    pub row: &'a str,
    pub count: usize,
}

/// A product for sale.
#[derive(Debug, Clone, Copy)]
pub struct NewProduct<'a> {
    pub sku: &'a str,
    pub name: &'a str,
    /// Won.
    pub price: i64,
    /// Units.
    pub stock: i64,
    /// Units that one buyer may order.
    pub max_per_user: Option<i32>,
}

impl Client {
    /// `POST /auth/register`: the new account's id. Repeated while the service is busy, until `deadline`.
    pub async fn register(&self, email: &str, password: &str, name: &str, deadline: Instant) -> anyhow::Result<Uuid> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Registered {
            user_id: Uuid,
        }
        let body = json!({ "email": email, "password": password, "name": name });
        let answer = self.patiently(self.request(Method::POST, "/auth/register").json(&body), deadline).await?;
        Ok(answer.succeeded()?.read::<Registered>()?.user_id)
    }

    /// `POST /auth/login`: an access token. Repeated while the service is busy, until `deadline`.
    pub async fn access_token(&self, email: &str, password: &str, deadline: Instant) -> anyhow::Result<String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Tokens {
            access_token: String,
        }
        let body = json!({ "email": email, "password": password });
        let answer = self.patiently(self.request(Method::POST, "/auth/login").json(&body), deadline).await?;
        Ok(answer.succeeded()?.read::<Tokens>()?.access_token)
    }

    /// `POST /admin/products`: the new product's id. None: there is one with this SKU.
    pub async fn create_product(&self, product: &NewProduct<'_>) -> anyhow::Result<Option<Uuid>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Created {
            product_id: Uuid,
        }
        let NewProduct { sku, name, price, stock, max_per_user } = product;
        let mut body = json!({
            "sku": sku, "name": name, "price": { "amount": price, "currency": "KRW" }, "initialStock": stock,
        });
        if let Some(units) = max_per_user {
            body["maxPerUser"] = (*units).into();
        }
        let answer = self.try_send(self.request(Method::POST, "/admin/products").json(&body)).await?;
        if answer.status == StatusCode::CONFLICT && answer.code() == "SKU_ALREADY_EXISTS" {
            return Ok(None);
        }
        Ok(Some(answer.succeeded()?.read::<Created>()?.product_id))
    }

    /// `POST /admin/coupons`: the coupon's id. The same key gives the same coupon.
    pub async fn create_coupon(&self, key: &str, coupon: &Value) -> anyhow::Result<Uuid> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Created {
            coupon_id: Uuid,
        }
        let request = self.request(Method::POST, "/admin/coupons").header("Idempotency-Key", key).json(coupon);
        Ok(self.try_send(request).await?.succeeded()?.read::<Created>()?.coupon_id)
    }

    /// `POST /coupons/{couponId}/issue`: whether this account has the coupon now. False: all are issued.
    pub async fn issue_coupon(&self, coupon: Uuid) -> anyhow::Result<bool> {
        let answer = self.try_send(self.request(Method::POST, &format!("/coupons/{coupon}/issue"))).await?;
        match answer.code().as_str() {
            "COUPON_ALREADY_ISSUED" => Ok(true),
            "COUPON_SOLD_OUT" => Ok(false),
            _ => answer.succeeded().map(|_| true),
        }
    }

    /// `POST /admin/concerts`: the concert's id; of the one with this title among the newest, if there is one.
    pub async fn create_concert(&self, new: &NewConcert<'_>) -> anyhow::Result<Uuid> {
        #[derive(Deserialize)]
        struct Page {
            items: Vec<Concert>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Concert {
            concert_id: Uuid,
            title: String,
        }
        let listed: Page = self.try_send(self.request(Method::GET, "/concerts")).await?.succeeded()?.read()?;
        if let Some(known) = listed.items.into_iter().find(|concert| concert.title == new.title) {
            return Ok(known.concert_id);
        }
        let NewConcert { title, starts_at, max_per_user, queue_manage_required } = new;
        let body = json!({
            "title": title,
            "startsAt": starts_at,
            "maxPerUser": max_per_user,
            "queueManageRequired": queue_manage_required,
        });
        let answer = self.try_send(self.request(Method::POST, "/admin/concerts").json(&body)).await?;
        Ok(answer.succeeded()?.read::<Concert>()?.concert_id)
    }

    /// `POST /admin/concerts/{concertId}/seats:bulk`, unless there is a product with this SKU: the id of the price category.
    pub async fn add_seats(&self, concert: Uuid, seats: &NewSeats<'_>) -> anyhow::Result<Uuid> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Added {
            product_id: Uuid,
        }
        let NewSeats { sku, name, price, row, count } = seats;
        let labels: Vec<String> = (1..=*count).map(|n| format!("{row}-{n}")).collect();
        let body =
            json!({ "sku": sku, "name": name, "price": { "amount": price, "currency": "KRW" }, "labels": labels });
        let path = format!("/admin/concerts/{concert}/seats:bulk");
        let answer = self.try_send(self.request(Method::POST, &path).json(&body)).await?;
        if answer.status == StatusCode::CONFLICT && answer.code() == "SKU_ALREADY_EXISTS" {
            return self.find_product(sku).await;
        }
        Ok(answer.succeeded()?.read::<Added>()?.product_id)
    }

    /// `POST /admin/events`. The first request with `key` decides: a later one with other times changes nothing.
    pub async fn schedule_event(&self, key: &str, event: &Value) -> anyhow::Result<()> {
        let request = self.request(Method::POST, "/admin/events").header("Idempotency-Key", key).json(event);
        let answer = self.try_send(request).await?;
        if answer.code() == "IDEMPOTENCY_KEY_REUSED" {
            return Ok(());
        }
        answer.succeeded().map(drop)
    }

    /// `GET /products`: the id of the product with this SKU.
    pub async fn find_product(&self, sku: &str) -> anyhow::Result<Uuid> {
        #[derive(Deserialize)]
        struct Page {
            content: Vec<Listed>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Listed {
            product_id: Uuid,
            sku: String,
        }
        let answer = self.try_send(self.request(Method::GET, &format!("/products?q={sku}"))).await?;
        let page: Page = answer.succeeded()?.read()?;
        let listed = page.content.into_iter().find(|listed| listed.sku == sku);
        Ok(listed.with_context(|| format!("there is no product {sku}"))?.product_id)
    }
}
