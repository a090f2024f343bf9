//! What is somebody's: each route whose path names a thing of theirs is asked by a stranger, who shows all that the owner
//! could show but the owner's token.

use std::collections::BTreeMap;

use crate::ledger::Ledger as _;

use reqwest::Method;
use serde_json::{Value, json};
use testkit::{eventually, fresh_key, text};

use super::Trial;
use super::authorisation::is_for_administrators;

/// Routes that are about whoever calls: what their paths name is for everybody.
const ABOUT_THE_CALLER: [&str; 6] = [
    "/api/v1/coupons/{couponId}/issue",
    "/api/v1/coupons/{couponId}/issues/me",
    "/api/v1/products/{productId}/restock-subscriptions",
    "/api/v1/queues/{eventId}/passes/complete",
    "/api/v1/queues/{eventId}/passes/verify",
    "/api/v1/queues/{eventId}/tickets",
];

/// The owner's things, by the names of their places in a path, and the owner's ticket and pass.
struct Things {
    ids: BTreeMap<&'static str, String>,
    ticket: String,
    pass: String,
}

impl Trial {
    /// A seat that the buyer has reserved, and a place of theirs in a line, beside what a trial has.
    async fn things(&self) -> Things {
        let (admin, buyer) = (&self.admin, &self.buyer);
        let keyed = |path: &str| admin.request(Method::POST, path).header("Idempotency-Key", fresh_key());
        let concert = json!({ "title": "Recital", "startsAt": "2036-01-01T10:00:00Z" });
        let concert = text(&admin.post("/admin/concerts", &concert).await.expect(201).json()["concertId"]);
        let seats = json!({ "sku": fresh_key(), "name": "R", "price": { "amount": 90_000, "currency": "KRW" }, "labels": ["A-1"] });
        admin.post(&format!("/admin/concerts/{concert}/seats:bulk"), &seats).await.expect(201);
        let map = buyer.get(&format!("/concerts/{concert}/seats")).await.expect(200).json();
        let wanted = json!({ "concertId": concert, "seatIds": [map["seats"][0]["seatId"]] });
        let reserved = buyer.post("/reservations", &wanted).await.expect(200).json();
        let sale = json!({
            "name": "Sale", "opensAt": "2026-01-01T00:00:00Z", "productIds": [self.product.id], "queueManageRequired": true,
        });
        let event = text(&admin.send(keyed("/admin/events").json(&sale)).await.expect(201).json()["eventId"]);
        let place = eventually("the buyer is admitted", async || {
            let enter = buyer.request(Method::POST, &format!("/queues/{event}/tickets"));
            let place = buyer.send(enter).await.json();
            place["passToken"].is_string().then_some(place)
        })
        .await;
        let ids = [
            ("{orderId}", self.order.clone()),
            ("{paymentId}", self.payment.clone()),
            ("{id}", self.notification.clone()),
            ("{delivery_id}", self.delivery.clone()),
            ("{reservationId}", text(&reserved["reservationId"])),
            ("{eventId}", event),
            ("{ticketId}", text(&place["ticketId"])),
        ];
        Things { ids: ids.into(), ticket: text(&place["ticketToken"]), pass: text(&place["passToken"]) }
    }
}

impl Things {
    /// Of the owner's things. None: the path names something that is none of them.
    fn path(&self, template: &str) -> Option<String> {
        let parts = template
            .split('/')
            .map(|part| if part.starts_with('{') { self.ids.get(part).map(String::as_str) } else { Some(part) });
        Some(parts.collect::<Option<Vec<&str>>>()?.join("/"))
    }
}

/// What the owner would send.
fn body(template: &str) -> Value {
    match template.rsplit('/').next() {
        Some("approve") => json!({ "pgPaymentId": "pg-1", "amount": { "amount": 129_000, "currency": "KRW" } }),
        Some("cancel") => json!({ "reason": "ill" }),
        _ => json!({}),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_somebody_is_nobody_elses_by_any_route() {
    let mut trial = Trial::start().await;
    let things = trial.things().await;
    trial.site.settled().await;
    trial.before = trial.site.everything().await;
    // Open rooms are saved again and again.
    trial.before.retain(|table, _| !table.ends_with("\"rooms\""));
    let anyone = trial.site.anyone();
    let document = anyone.send(anyone.request_root(Method::GET, "/openapi.json")).await.expect(200).json();
    let mut asked = 0;
    for (template, operations) in document["paths"].as_object().expect("paths") {
        if !template.contains('{') || ABOUT_THE_CALLER.contains(&template.as_str()) {
            continue;
        }
        for (method, operation) in operations.as_object().expect("operations") {
            if operation["security"].is_null() || is_for_administrators(operation) {
                continue;
            }
            let path = things.path(template).unwrap_or_else(|| panic!("{template}: who owns it? Give Things one."));
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
            let stranger = trial.stranger.clone();
            let request = stranger
                .request_root(method.clone(), &path)
                .header("Idempotency-Key", fresh_key())
                .header("X-Queue-Ticket", &things.ticket)
                .header("X-Queue-Token", &things.pass);
            let request = if operation["requestBody"].is_object() { request.json(&body(template)) } else { request };
            let answer = stranger.send(request).await;
            // A list shows what is the caller's own: nothing.
            let is_nothing = answer.status == 200 && answer.json() == json!({ "items": [] });
            if !is_nothing && ![403, 404].contains(&answer.status.as_u16()) {
                trial.flaws.push(format!("{method} {template} by a stranger: {answer}"));
            }
            asked += 1;
        }
    }
    assert!(asked >= 13, "only {asked} routes were asked");
    // A pass of somebody else is none.
    let verify = trial.stranger.request(Method::POST, &format!("/queues/{}/passes/verify", things.ids["{eventId}"]));
    let stranger = trial.stranger.clone();
    trial
        .refuse_with("a pass", &stranger, verify.header("X-Queue-Token", &things.pass), 403, "QUEUE_TOKEN_INVALID")
        .await;
    trial.end().await;
}
