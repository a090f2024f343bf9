//! `POST /webhooks/pg/{provider}`: a provider says that money has moved.
//!
//! A webhook is stored and never believed: it only names a payment that the resolver then asks the provider about. So a
//! webhook that is late, repeated, out of order or wrong does no harm, and one that is lost costs only time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse, post};
use chrono::Utc;
use common::batch::{Batch, BatchSettings};
use common::db::{Db, Prepared};
use common::error::NOT_FOUND;
use common::http::{Data, Path, Problem, detach};
use common::{Refused, Result};
use contract::ids::PaymentId;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Double, Nullable, Text, Uuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use secrecy::SecretString;
use serde::Deserialize;

use crate::App;
use crate::naverpay;
use crate::payment;
use crate::standard_webhooks::{Secrets, verify};

/// Section `[payment.webhooks]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Its name ends with `secret`, so that it is never printed.
    pub naverpay_secret: Vec<SecretString>,
    pub kept_days: u16,
}

/// Who may call, and what each signs with.
pub struct Senders(HashMap<&'static str, Secrets>);

impl Senders {
    pub fn new(settings: &Settings) -> anyhow::Result<Senders> {
        Ok(Senders([(naverpay::NAME, Secrets::parse(&settings.naverpay_secret)?)].into()))
    }
}

/// Larger bodies are refused unread. Ours are below 1 KiB.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The webhook about an approval mostly arrives just before the approval's own answer, and need not cause a question.
const HEAD_START: Duration = Duration::from_secs(1);

/// Webhooks that one statement of the loop looks at.
const HANDLE_MAX: i64 = 500;

/// Rows that one statement removes, so that it holds its locks briefly.
const FORGET_MAX: i64 = 1_000;

/// What a webhook is about. Everything else in it is ignored.
#[derive(Deserialize)]
struct Hint {
    data: HintData,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HintData {
    merchant_pay_key: PaymentId,
}

/// Hear from a payment provider.
///
/// Signed by the rules of Standard Webhooks. The same `webhook-id` again changes nothing. 200 means that it is stored;
/// after anything else the provider is to send it again.
#[utoipa::path(
    tag = "payments",
    params(
        ("provider" = String, Path, description = "naverpay"),
        ("webhook-id" = String, Header),
        ("webhook-timestamp" = String, Header, description = "Unix seconds"),
        ("webhook-signature" = String, Header, description = "`v1,` and base64; several separated by spaces"),
    ),
    request_body(
        content = String, content_type = "application/json", description = "At most 64 KiB",
        example = json!(r#"{"data":{"merchantPayKey":"b2a9d1c4-0f3e-5b7a-8c61-2d9e4f7a1b35"}}"#),
    ),
    responses(
        (status = 200, description = "Stored, now or before"),
        (status = 401, body = Problem, description = "INVALID_SIGNATURE"),
        (status = 404, body = Problem, description = "NOT_FOUND: no such provider"),
        (status = 413, body = Problem, description = "PAYLOAD_TOO_LARGE"),
    )
)]
#[post("/webhooks/pg/{provider}")]
pub async fn receive_webhook(
    app: Data<App>,
    provider: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, actix_web::Error> {
    let Some((&provider, secrets)) = app.webhook_senders.0.get_key_value(provider.as_str()) else {
        return Err(common::Error::from(Refused::new(NOT_FOUND, "There is no such provider.")).into());
    };
    let body = payload.to_bytes_limited(BODY_BYTES_MAX).await.map_err(actix_web::error::ErrorPayloadTooLarge)??;
    let id = match verify(request.headers(), &body, secrets, Utc::now()) {
        Ok(id) => id.to_owned(),
        Err(unverified) => {
            metrics::counter!("stampede_psp_webhooks_total", "outcome" => "refused").increment(1);
            tracing::debug!(provider, %unverified, "A webhook is refused");
            return Err(common::Error::from(payment::Refused::InvalidSignature).into());
        }
    };
    let app = app.into_inner();
    let payment = serde_json::from_slice(&body).ok().map(|hint: Hint| hint.data.merchant_pay_key);
    let webhook = Received { provider, id, payment, payload: as_text(&body) };
    detach(async move { store(&app, webhook).await }).await?;
    Ok(HttpResponse::Ok().finish())
}

/// A webhook that is to be stored.
#[derive(Debug, Clone)]
pub struct Received {
    provider: &'static str,
    id: String,
    /// The payment that it names.
    payment: Option<PaymentId>,
    payload: String,
}

/// Stores a webhook. A repeated one changes nothing. Nobody waits for the payment that it names: the loop looks at that. So
/// the provider can wait some milliseconds for the others that come.
async fn store(app: &App, webhook: Received) -> Result<()> {
    let is_new = app.webhooks.submit_without_haste(webhook).await?;
    let outcome = if is_new { "stored" } else { "repeated" };
    metrics::counter!("stampede_psp_webhooks_total", "outcome" => outcome).increment(1);
    Ok(())
}

/// Starts the queue of webhooks. The answer tells whether it was new.
pub fn start_batch(db: &Db, settings: &BatchSettings) -> Batch<Received, bool> {
    let db = db.clone();
    Batch::start("webhooks", settings, move |received: Arc<[Received]>| {
        let db = db.clone();
        async move {
            let stored = db.tx("store_webhooks", async |tx| insert(tx, &received).await).await?;
            let mut stored: HashSet<(String, String)> = stored.into_iter().map(|row| (row.provider, row.id)).collect();
            // Of two with one id in a batch, the first is the new one.
            let is_new = |webhook: &Received| stored.remove(&(webhook.provider.to_owned(), webhook.id.clone()));
            Ok(received.iter().map(is_new).map(Ok).collect())
        }
    })
}

#[derive(QueryableByName)]
struct Stored {
    #[diesel(sql_type = Text)]
    provider: String,
    #[diesel(sql_type = Text, column_name = webhook_id)]
    id: String,
}

async fn insert(conn: &mut AsyncPgConnection, received: &[Received]) -> Result<Vec<Stored>> {
    let query = sql_query(include_str!("webhooks_store.sql"))
        .bind::<Array<Text>, _>(received.iter().map(|webhook| webhook.provider).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(received.iter().map(|webhook| &webhook.id).collect::<Vec<_>>())
        .bind::<Array<Nullable<Uuid>>, _>(received.iter().map(|webhook| webhook.payment).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(received.iter().map(|webhook| &webhook.payload).collect::<Vec<_>>());
    Ok(Prepared(query).load(conn).await?)
}

/// The loop: has the resolver ask about the payments that webhooks name and whose outcome is still not known.
pub async fn handle_webhooks(app: &App) -> Result<()> {
    #[derive(QueryableByName)]
    struct Handled {
        #[diesel(sql_type = BigInt)]
        webhooks: i64,
        #[diesel(sql_type = BigInt)]
        payments: i64,
    }
    loop {
        let handled: Handled = app
            .db
            .tx("handle_webhooks", async |tx| {
                let query = sql_query(include_str!("webhooks_handle.sql"));
                let query = query.bind::<BigInt, _>(HANDLE_MAX).bind::<Double, _>(HEAD_START.as_secs_f64());
                Ok(Prepared(query).get_result(tx).await?)
            })
            .await?;
        if handled.payments > 0 {
            app.unclear.notify_one();
        }
        if handled.webhooks < HANDLE_MAX {
            return Ok(());
        }
    }
}

/// The body as PostgreSQL can store it: what is not UTF-8 is replaced, and what is then too long is cut.
fn as_text(body: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(body).replace('\0', "\u{fffd}");
    text.truncate(text.floor_char_boundary(BODY_BYTES_MAX));
    text
}

/// The loop that removes what is older than `[payment.webhooks] kept_days`.
pub async fn forget_webhooks(app: &App) -> Result<()> {
    loop {
        let forgotten = app
            .db
            .tx("forget_webhooks", async |tx| {
                let query = sql_query(include_str!("forget_webhooks.sql"));
                let query = query.bind::<Double, _>(f64::from(app.webhooks_kept_days)).bind::<BigInt, _>(FORGET_MAX);
                Ok(query.execute(tx).await? as i64)
            })
            .await?;
        if forgotten < FORGET_MAX {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standard_webhooks::cases::approved;

    #[test]
    fn a_hint_names_a_payment_or_nothing() {
        let id = PaymentId::generate();
        let named = |body: &[u8]| serde_json::from_slice(body).ok().map(|hint: Hint| hint.data.merchant_pay_key);
        assert_eq!(named(&approved(&id.to_string())), Some(id));
        for body in [
            &b""[..],
            b"hello",
            b"[]",
            b"{}",
            br#"{"data":{}}"#,
            br#"{"data":{"merchantPayKey":7}}"#,
            br#"{"data":{"merchantPayKey":"order-1"}}"#,
            &[0xff, 0x00],
        ] {
            assert_eq!(named(body), None, "{body:?}");
        }
    }

    #[test]
    fn whatever_was_signed_can_be_stored() {
        assert_eq!(as_text("결제".as_bytes()), "결제");
        assert_eq!(as_text(b"a\0b"), "a\u{fffd}b");
        for body in [vec![0xff; BODY_BYTES_MAX], vec![0; BODY_BYTES_MAX], "결".repeat(BODY_BYTES_MAX / 3).into_bytes()]
        {
            let text = as_text(&body);
            assert!(text.len() <= BODY_BYTES_MAX && !text.contains('\0'));
        }
    }
}
