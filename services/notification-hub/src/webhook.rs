//! Webhooks: notifications to programs, signed as Standard Webhooks say.

pub mod address;
mod client;
mod disable_endpoint;
pub mod signature;

use std::collections::HashMap;

use chrono::{DateTime, SecondsFormat, Utc};
use common::Result;
use contract::ids::NotificationId;
use diesel::pg::Pg;
use diesel::{ExpressionMethods, QueryDsl, SelectableHelper};
use diesel_async::RunQueryDsl;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::App;
use crate::channel::Channel;
use crate::claims::{AttemptResult, Claimed};
use crate::delivery::{Failure, Outcome};
use crate::schema::{notifications, webhook_endpoints};

use disable_endpoint::disable_gone;

pub use client::{Client, Signed, WebhookSettings};

/// Where a webhook goes, and what it is signed with.
#[derive(Debug, Clone, diesel::Queryable, diesel::Selectable)]
#[diesel(table_name = webhook_endpoints, check_for_backend(Pg))]
struct Endpoint {
    name: String,
    url: String,
    secret: String,
    old_secret: Option<String>,
    old_secret_until: Option<DateTime<Utc>>,
    disabled_at: Option<DateTime<Utc>>,
}

/// What a notification tells programs.
#[derive(Debug, diesel::Queryable, diesel::Selectable)]
#[diesel(table_name = notifications, check_for_backend(Pg))]
struct Told {
    id: NotificationId,
    kind: String,
    data: Value,
    created_at: DateTime<Utc>,
}

/// Sends all at once, outside any transaction. A claim has no more deliveries than may be under way.
pub async fn send(app: &App, claimed: Vec<Claimed>, deadline: Instant) -> Vec<AttemptResult> {
    let retry_delays = app.settings.retry_delays(Channel::Webhook);
    let (endpoints, told) = match load(app, &claimed).await {
        Ok(loaded) => loaded,
        Err(error) => {
            let first = claimed.iter().map(|one| one.attempt.delivery.to_string()).next();
            tracing::warn!(
                %error, deliveryId = first, deliveries = claimed.len(),
                "What webhooks are to say cannot be read; their deliveries are handed back and claimed again"
            );
            let handed_back = claimed.iter().map(|one| one.attempt.result(Outcome::HandedBack, &retry_delays));
            return handed_back.collect();
        }
    };
    let targets: Vec<&str> = claimed.iter().map(|one| one.target.as_deref().unwrap_or_default()).collect();
    let turns = app.targets.admit(Channel::Webhook, &targets).await;
    let sending = claimed.iter().zip(turns).map(|(delivery, turn)| {
        let endpoint = delivery.target.as_deref().and_then(|name| endpoints.get(name));
        let (told, retry_delays) = (told.get(&delivery.notification), &retry_delays);
        async move {
            let outcome = match (endpoint, told, turn) {
                (Some(_), Some(_), Some(pause)) => Outcome::HeldBack(pause),
                (Some(Endpoint { disabled_at: Some(_), .. }), Some(_), None) => {
                    Outcome::NotSent(Failure::EndpointDisabled)
                }
                _ if Instant::now() >= deadline => Outcome::HandedBack,
                (Some(endpoint), Some(told), None) => delivery.in_trace(post(app, delivery, endpoint, told)).await,
                _ => Outcome::NotSent(Failure::EndpointUnknown),
            };
            delivery.attempt.result(outcome, retry_delays)
        }
    });
    let results = join_all(sending).await;
    app.targets.record(Channel::Webhook, targets.iter().copied().zip(&results));
    let gone = targets.iter().zip(&results).filter_map(|(name, result)| {
        (result.outcome == Outcome::NotSent(Failure::WebhookRefused)).then(|| Some((endpoints.get(*name)?, result)))?
    });
    disable_gone(
        app,
        gone.map(|(endpoint, result)| (endpoint.name.clone(), endpoint.url.clone(), result.attempt.clone())).collect(),
    )
    .await;
    results
}

type Loaded = (HashMap<String, Endpoint>, HashMap<NotificationId, Told>);

async fn load(app: &App, claimed: &[Claimed]) -> Result<Loaded> {
    let names: Vec<&str> = claimed.iter().filter_map(|one| one.target.as_deref()).collect();
    let ids: Vec<NotificationId> = claimed.iter().map(|one| one.notification).collect();
    let mut conn = app.db.read().await?;
    let endpoints: Vec<Endpoint> = webhook_endpoints::table
        .filter(webhook_endpoints::name.eq_any(names))
        .select(Endpoint::as_select())
        .load(&mut *conn)
        .await?;
    let told: Vec<Told> =
        notifications::table.filter(notifications::id.eq_any(ids)).select(Told::as_select()).load(&mut *conn).await?;
    let endpoints = endpoints.into_iter().map(|one| (one.name.clone(), one)).collect();
    Ok((endpoints, told.into_iter().map(|one| (one.id, one)).collect()))
}

async fn post(app: &App, delivery: &Claimed, endpoint: &Endpoint, told: &Told) -> Outcome {
    let now = Utc::now();
    let id = delivery.attempt.delivery.to_string();
    let body = body(delivery, told).to_string().into_bytes();
    // The old secret signs as well until its time is up.
    let old = endpoint.old_secret.as_deref().filter(|_| endpoint.old_secret_until.is_some_and(|until| now < until));
    let secrets: Vec<&str> = [Some(endpoint.secret.as_str()), old].into_iter().flatten().collect();
    let timestamp = now.timestamp();
    let Some(signature) = signature::sign(&secrets, &id, timestamp, &body) else {
        return Outcome::NotSent(Failure::EndpointUnknown);
    };
    let Err(not_taken) = app.webhooks.post(&endpoint.url, Signed { id, timestamp, signature, body }).await else {
        return Outcome::Sent;
    };
    tracing::warn!(
        deliveryId = %delivery.attempt.delivery, endpoint = endpoint.name, reason = not_taken.reason,
        outcome = ?not_taken.outcome,
        "A webhook was not taken; it is tried again, or given up where the outcome is final"
    );
    not_taken.outcome
}

/// The same in every attempt.
fn body(delivery: &Claimed, told: &Told) -> Value {
    json!({
        "type": told.kind,
        "timestamp": told.created_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        "data": {
            "notificationId": told.id,
            "userId": delivery.user,
            "subject": delivery.subject,
            "body": delivery.body,
            "data": told.data,
        },
    })
}
