//! A room of a test: its people, and its clock moved by hand.

use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Answer, Client, eventually, fresh_key, text};

use crate::site::Site;

/// The rules of a room that is never short of anything, with `members` in their place.
pub fn rules(members: Value) -> Value {
    let mut rules = json!({
        "maxActive": 1000, "ratePerMinute": 60_000, "sessionSeconds": 600, "claimSeconds": 60, "waitingMax": 100_000,
        "verifyOffline": false, "closedOnOutage": false,
    });
    rules.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    rules
}

/// Somebody in line.
#[derive(Clone)]
pub struct Guest {
    pub client: Client,
    pub ticket: String,
    pub token: String,
    pub seq: Option<i64>,
}

impl Site {
    /// An open sale with a room of these rules.
    pub async fn room(&self, members: Value) -> String {
        let event = self.event(json!({ "queueManageRequired": true, "queue": rules(members) })).await;
        self.command(&event, "open").await.expect(200);
        // An opening makes the rooms be looked at once.
        let saved = format!("select count(*) from {{queue}}.rooms where event_id = '{event}' and saved_at is not null");
        self.until_number(&saved, 1).await;
        event
    }

    pub async fn ask_in(&self, client: &Client, event: &str) -> Answer {
        client.send(client.request(Method::POST, &format!("/queues/{event}/tickets"))).await
    }

    /// Somebody new enters.
    pub async fn guest(&self, event: &str) -> Guest {
        self.enter(&self.buyer().await, event).await
    }

    pub async fn enter(&self, client: &Client, event: &str) -> Guest {
        let answer = self.ask_in(client, event).await;
        assert!(answer.status.is_success(), "{answer}");
        guest(client, &answer.json())
    }

    pub async fn guests(&self, event: &str, count: usize) -> Vec<Guest> {
        let mut guests = Vec::with_capacity(count);
        for _ in 0..count {
            guests.push(self.guest(event).await);
        }
        guests
    }

    pub async fn poll(&self, event: &str, guest: &Guest) -> Answer {
        let path = format!("/queues/{event}/tickets/{}", guest.ticket);
        let request = guest.client.request(Method::GET, &path).header("X-Queue-Ticket", &guest.token);
        guest.client.send(request).await
    }

    /// The status of a ticket, or the code of its refusal.
    pub async fn standing(&self, event: &str, guest: &Guest) -> String {
        let answer = self.poll(event, guest).await;
        let body = answer.json();
        text(if answer.status.is_success() { &body["status"] } else { &body["code"] })
    }

    pub async fn standings(&self, event: &str, guests: &[Guest]) -> Vec<String> {
        let mut all = Vec::new();
        for guest in guests {
            all.push(self.standing(event, guest).await);
        }
        all
    }

    pub async fn leave(&self, event: &str, guest: &Guest) -> Answer {
        let path = format!("/queues/{event}/tickets/{}", guest.ticket);
        let request = guest.client.request(Method::DELETE, &path).header("X-Queue-Ticket", &guest.token);
        guest.client.send(request).await
    }

    /// The pass of somebody who is admitted.
    pub async fn pass(&self, event: &str, guest: &Guest) -> String {
        let view = self.poll(event, guest).await.expect(200).json();
        assert_eq!(view["status"], "ADMITTED", "{view}");
        text(&view["passToken"])
    }

    pub async fn try_pass(&self, client: &Client, event: &str, pass: &str) -> Answer {
        let request = client.request(Method::POST, &format!("/queues/{event}/passes/verify"));
        client.send(request.header("X-Queue-Token", pass)).await
    }

    pub async fn complete(&self, event: &str, guest: &Guest) {
        let path = format!("/queues/{event}/passes/complete");
        guest.client.send(guest.client.request(Method::POST, &path)).await.expect(204);
    }

    /// As an administrator.
    pub async fn manage(&self, event: &str, command: &str) -> Answer {
        self.admin().post(&format!("/admin/queues/{event}/{command}"), &json!({})).await
    }

    pub async fn configure(&self, event: &str, rules: &Value) -> Answer {
        let admin = self.admin();
        admin.send(admin.request(Method::PUT, &format!("/admin/queues/{event}")).json(rules)).await
    }

    pub async fn admit(&self, event: &str, count: i64, key: &str) -> Answer {
        let admin = self.admin();
        let request = admin.request(Method::POST, &format!("/admin/queues/{event}/admit"));
        admin.send(request.header("Idempotency-Key", key).json(&json!({ "count": count }))).await
    }

    pub async fn status(&self, event: &str) -> Value {
        self.anyone().get(&format!("/queues/{event}/status")).await.expect(200).json()
    }

    /// Lets the room tick once now: an administrator lets in nobody more than the rate, which is not short.
    pub async fn tick(&self, event: &str) {
        // Entering near the front ticks the room, and whoever is in keeps the place.
        let paused = text(&self.read(event).await["mode"]);
        assert_eq!(paused, "RUNNING", "a paused room is ticked by admit");
        self.admit(event, 1, &fresh_key()).await.expect(200);
    }

    pub fn key(&self, event: &str, part: &str) -> String {
        format!(":q:{{{event}}}:{part}")
    }

    /// Everybody in this part of the room was there long ago.
    pub async fn move_to_the_past(&self, event: &str, part: &str) {
        let key = self.key(event, part);
        let members: Vec<String> = self.redis(&["ZRANGE", &key, "0", "-1"]).await;
        for member in members {
            let () = self.redis(&["ZADD", &key, "1", &member]).await;
        }
    }

    pub async fn meta(&self, event: &str, field: &str) -> i64 {
        let value: Option<String> = self.redis(&["HGET", &self.key(event, "meta"), field]).await;
        value.and_then(|value| value.parse::<f64>().ok()).map_or(-1, |value| value as i64)
    }

    pub async fn set_meta(&self, event: &str, field: &str, value: &str) {
        let () = self.redis(&["HSET", &self.key(event, "meta"), field, value]).await;
    }

    pub async fn members(&self, event: &str, part: &str) -> Vec<String> {
        self.redis(&["ZRANGE", &self.key(event, part), "0", "-1"]).await
    }

    /// Waits until the room in PostgreSQL is that in Redis.
    pub async fn until_saved(&self, event: &str) {
        let issued = self.meta(event, "next").await - 1;
        let front = self.meta(event, "front").await;
        let active = self.members(event, "active").await.len();
        let offered = self.members(event, "offer").await.len();
        let saved = format!(
            "select count(*) from {{queue}}.rooms where event_id = '{event}' and issued >= {issued} and front = {front}
                and cardinality(active_seqs) = {active} and cardinality(offered_seqs) = {offered}"
        );
        eventually("the room is saved", async || (self.number(&saved).await == 1).then_some(())).await;
    }

    /// Redis loses everything of this room, at one moment, long after it was built.
    pub async fn lose(&self, event: &str) {
        self.raised_long_ago(event).await;
        let parts = ["meta", "who", "seen", "offer", "active", "parked", "back", "ended", "shown"];
        let keys = parts.map(|part| self.key(event, part));
        let mut words = vec!["DEL"];
        words.extend(keys.iter().map(String::as_str));
        let () = self.redis(&words).await;
    }

    /// Whoever has raised the epoch of this room last has died since, or has built the room.
    pub async fn raised_long_ago(&self, event: &str) {
        let long_ago = "update {queue}.rooms set raised_at = now() - interval '1 hour' where event_id =";
        self.execute(&format!("{long_ago} '{event}'")).await;
    }
}

pub fn guest(client: &Client, view: &Value) -> Guest {
    Guest {
        client: client.clone(),
        ticket: text(&view["ticketId"]),
        token: text(&view["ticketToken"]),
        seq: view["seq"].as_i64(),
    }
}
