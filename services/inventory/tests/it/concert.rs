//! A concert for tests, and how buyers reserve its seats.

use serde_json::{Value, json};
use testkit::{Answer, Client, Product, eventually, text};
use uuid::Uuid;

use crate::site::Site;

/// A concert with seats of two prices: `A-…` cost 150,000 won, `B-…` 90,000.
pub struct Concert {
    pub id: String,
    pub categories: [Product; 2],
    pub seats: Vec<Value>,
}

impl Concert {
    pub async fn new(site: &Site, seats: [usize; 2], max_per_user: Option<i32>) -> Concert {
        let new = json!({ "title": "Recital", "startsAt": "2030-01-01T10:00:00Z", "maxPerUser": max_per_user });
        Concert::create(site, seats, new).await
    }

    /// Nobody has a seat of it but with a pass.
    pub async fn with_waiting_room(site: &Site, seats: [usize; 2]) -> Concert {
        let new = json!({ "title": "Recital", "startsAt": "2030-01-01T10:00:00Z", "queueManageRequired": true });
        Concert::create(site, seats, new).await
    }

    async fn create(site: &Site, seats: [usize; 2], new: Value) -> Concert {
        let admin = site.admin();
        let created = admin.post("/admin/concerts", &new).await.expect(201);
        let id = text(&created.json()["concertId"]);
        assert_eq!(created.header("Location"), Some(format!("/api/v1/concerts/{id}").as_str()));
        let mut categories = Vec::new();
        for (row, (count, price)) in ["A", "B"].iter().zip(seats.into_iter().zip([150_000, 90_000])) {
            let added = admin.post(&format!("/admin/concerts/{id}/seats:bulk"), &category(row, count, price)).await;
            let added = added.expect(201).json();
            assert_eq!(added["seats"], count);
            categories.push(Product { id: text(&added["productId"]) });
        }
        let seats = map(site, &id).await["seats"].as_array().unwrap().clone();
        Concert { id, categories: categories.try_into().unwrap(), seats }
    }

    pub fn seat(&self, label: &str) -> String {
        text(&self.seats.iter().find(|seat| seat["label"] == label).unwrap()["seatId"])
    }

    pub fn wanted(&self, labels: &[&str]) -> Value {
        let seats: Vec<String> = labels.iter().map(|label| self.seat(label)).collect();
        json!({ "concertId": self.id, "seatIds": seats })
    }

    pub async fn reserve(&self, buyer: &Client, labels: &[&str]) -> Answer {
        buyer.post("/reservations", &self.wanted(labels)).await
    }

    /// What is shown now of a seat: the map lags a moment.
    pub async fn shows(&self, site: &Site, label: &str, status: &str) {
        eventually(&format!("seat {label} is {status}"), async || {
            let map = map(site, &self.id).await;
            let seat = map["seats"].as_array().unwrap().iter().find(|seat| seat["label"] == label).unwrap().clone();
            (seat["status"] == status).then_some(())
        })
        .await;
    }
}

pub fn category(row: &str, count: usize, price: i64) -> Value {
    let labels: Vec<String> = (1..=count).map(|n| format!("{row}-{n}")).collect();
    let sku = format!("{row}-{}", Uuid::new_v4());
    json!({ "sku": sku, "name": row, "price": { "amount": price, "currency": "KRW" }, "labels": labels })
}

pub async fn map(site: &Site, concert: &str) -> Value {
    site.anyone().get(&format!("/concerts/{concert}/seats")).await.expect(200).json()
}

pub fn id_of(reservation: &Answer) -> String {
    text(&reservation.json()["reservationId"])
}

/// Lets the time of a reservation be up.
pub async fn expire(site: &Site, reservation: &str) {
    let past = "update {inventory}.holds set expires_at = clock_timestamp() where hold_id";
    site.execute(&format!("{past} = '{reservation}'")).await;
}
