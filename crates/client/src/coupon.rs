//! Coupons of buyers under load: they ask for one and use it.

use reqwest::{Method, Request};
use serde_json::json;
use uuid::Uuid;

use crate::{Buyer, Client, Reply};

impl Client {
    /// `POST /coupons/{couponId}/issue`, once.
    pub async fn issue_for(&self, buyer: &Buyer, coupon: Uuid) -> Reply {
        self.attempt_built(buyer, self.request(Method::POST, &format!("/coupons/{coupon}/issue"))).await
    }

    /// [`Client::order_request`] with a coupon that was issued to its buyer.
    pub fn order_request_with_coupon(&self, product: Uuid, quantity: u64, issue: Uuid) -> reqwest::Result<Request> {
        let items = [json!({ "productId": product, "quantity": quantity })];
        let body = json!({ "items": items, "couponIssueId": issue });
        self.request(Method::POST, "/orders").json(&body).build()
    }
}
