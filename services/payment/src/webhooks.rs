//! `POST /webhooks/pg/{provider}`: a provider calls to say that money has moved.
//!
//! What it says is stored and never believed: it names a payment, and the resolver asks the provider about that. So a
//! webhook that is late, repeated, out of order or wrong can do no harm, and one that is lost costs only time.

use std::collections::HashMap;
use std::time::Duration;

use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse, post};
use chrono::Utc;
use common::db::{Prepared, Tx};
use common::error::NOT_FOUND;
use common::http::{Data, Path, Problem, detach};
use common::{Refused, Result};
use contract::ids::PaymentId;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Double, Nullable, Text, Uuid};
use diesel_async::RunQueryDsl;
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

/// While an approval waits for its own answer, the webhook about it mostly arrives just before that: nobody needs to be
/// asked yet.
const HEAD_START: Duration = Duration::from_secs(1);

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
    request_body(content = String, content_type = "application/json", description = "At most 64 KiB"),
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
            tracing::debug!(provider, %unverified, "A webhook is not believed");
            return Err(common::Error::from(payment::Refused::InvalidSignature).into());
        }
    };
    let app = app.into_inner();
    detach(async move { app.hear(provider, id, &body).await }).await?;
    Ok(HttpResponse::Ok().finish())
}

impl App {
    async fn hear(&self, provider: &'static str, id: String, body: &[u8]) -> Result<()> {
        let payment = serde_json::from_slice(body).ok().map(|hint: Hint| hint.data.merchant_pay_key);
        let payload = as_text(body);
        let is_new = self
            .db
            .tx("receive_webhook", async |tx| {
                let is_new = store(tx, provider, &id, payment, &payload).await?;
                if let Some(payment) = payment.filter(|_| is_new) {
                    // Nobody wakes the resolver: the approver, who knows most of the time, has a head start.
                    ask_soon(tx, payment).await?;
                }
                Ok(is_new)
            })
            .await?;
        let outcome = if is_new { "stored" } else { "repeated" };
        metrics::counter!("stampede_psp_webhooks_total", "outcome" => outcome).increment(1);
        Ok(())
    }
}

/// As PostgreSQL can store it: what is not UTF-8 is replaced, and the end of what thereby became too long is lost.
fn as_text(body: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(body).replace('\0', "\u{fffd}");
    text.truncate(text.floor_char_boundary(BODY_BYTES_MAX));
    text
}

/// Whether it was not there before.
async fn store(tx: &mut Tx, provider: &str, id: &str, payment: Option<PaymentId>, payload: &str) -> Result<bool> {
    let query = sql_query(
        "insert into psp_webhooks (provider, webhook_id, payment_id, payload)
         values ($1, $2, $3, $4)
         on conflict (provider, webhook_id) do nothing",
    );
    let query = query.bind::<Text, _>(provider).bind::<Text, _>(id);
    let query = query.bind::<Nullable<Uuid>, _>(payment).bind::<Text, _>(payload);
    Ok(Prepared(query).execute(tx).await? > 0)
}

/// Has the resolver ask the provider about a payment of which it is not known that it is paid, given up or not. False if
/// there is nothing to ask: there is no such payment, it is paid, or nobody ever tried to take its money.
pub async fn ask_soon(tx: &mut Tx, payment: PaymentId) -> Result<bool> {
    let query = sql_query(
        "update payments
         set ask_at = case
             when status = 'APPROVING' then least(ask_at, statement_timestamp() + $2 * interval '1 second')
             else statement_timestamp()
         end
         where id = $1
             and attempt_id is not null
             and status in ('PENDING', 'APPROVING', 'UNKNOWN', 'NEEDS_REVIEW', 'FAILED', 'CANCELLED', 'EXPIRED')",
    );
    let query = query.bind::<Uuid, _>(payment).bind::<Double, _>(HEAD_START.as_secs_f64());
    Ok(Prepared(query).execute(tx).await? > 0)
}

/// The loop that removes what is older than `[payment.webhooks] kept_days`.
pub async fn forget_webhooks(app: &App) -> Result<()> {
    loop {
        let forgotten = app
            .db
            .tx("forget_webhooks", async |tx| {
                let query = sql_query(
                    "delete from psp_webhooks
                     where (provider, webhook_id) in (
                         select provider, webhook_id
                         from psp_webhooks
                         where received_at < statement_timestamp() - $1 * interval '1 day'
                         order by received_at
                         limit $2
                     )",
                );
                let query = query.bind::<Double, _>(f64::from(app.webhooks_kept_days)).bind::<BigInt, _>(FORGET_MAX);
                Ok(Prepared(query).execute(tx).await? as i64)
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
