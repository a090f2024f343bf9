//! Whether a pass lets somebody buy now: the signature first, and then whether it is in use. While Redis is away, and after it
//! was lost, the signature is enough.

use actix_web::{HttpRequest, HttpResponse, post};
use chrono::{DateTime, Utc};
use common::auth::Caller;
use common::http::{Data, Path, Problem};
use common::signed::Rejected;
use common::{Refused, Result};
use contract::codes::QUEUE_TOKEN_INVALID;
use contract::ids::{AccountId, SaleEventId};
use serde_json::json;

use crate::App;
use crate::restore_room::restore_room;
use crate::room::{Cold, Verdict};
use crate::ticket::Pass;

/// The header with the pass.
const PASS_HEADER: &str = "X-Queue-Token";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    Ok { until: DateTime<Utc> },
    Invalid,
    Expired,
    Ended,
}

/// `buys`: a service that sells asks, and not only the owner. Refuses with `EVENT_NOT_FOUND`.
pub async fn verify_pass(
    app: &App,
    event: SaleEventId,
    account: AccountId,
    token: &str,
    buys: bool,
) -> Result<Verified> {
    let known = app.events.find(event).await?;
    let pass = match Pass::read(&known.signer, account, token, known.now()) {
        Ok(pass) => pass,
        Err(Rejected::Invalid) => return Ok(count(Verified::Invalid)),
        Err(Rejected::Expired) => return Ok(count(Verified::Expired)),
    };
    let ok = Verified::Ok { until: DateTime::from_timestamp_millis(pass.until_ms).unwrap_or_else(|| known.now()) };
    if !known.event.queue_manage_required {
        return Ok(count(ok));
    }
    let mut verdict = app.rooms.verify(event, account, pass, buys).await;
    if let Ok(Err(Cold)) = verdict {
        restore_room(app, &known.event).await?;
        verdict = app.rooms.verify(event, account, pass, buys).await;
    }
    Ok(count(match verdict {
        Ok(Ok(Verdict::Ok) | Err(Cold)) => ok,
        Ok(Ok(Verdict::Expired)) => Verified::Expired,
        Ok(Ok(Verdict::Ended)) => Verified::Ended,
        Err(error) if error.is_transient() => ok,
        Err(error) => return Err(error),
    }))
}

fn count(verified: Verified) -> Verified {
    let outcome = match verified {
        Verified::Ok { .. } => "ok",
        Verified::Invalid => "invalid",
        Verified::Expired => "expired",
        Verified::Ended => "ended",
    };
    metrics::counter!("stampede_queue_passes_total", "outcome" => outcome).increment(1);
    verified
}

/// Whether the caller's pass is good. No promise: only buying decides.
#[utoipa::path(tag = "queues", params(("eventId" = SaleEventId, Path), ("X-Queue-Token" = String, Header)), responses(
    (status = 200, description = "`{\"status\": \"OK\"}`"),
    (status = 401, body = Problem, description = "UNAUTHORIZED"),
    (status = 403, body = Problem, description = "QUEUE_TOKEN_INVALID"),
    (status = 404, body = Problem, description = "EVENT_NOT_FOUND")
), security(("bearer" = [])))]
#[post("/queues/{eventId}/passes/verify")]
pub async fn try_pass(
    app: Data<App>,
    caller: Caller,
    request: HttpRequest,
    id: Path<SaleEventId>,
) -> Result<HttpResponse> {
    let token = request.headers().get(PASS_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match verify_pass(&app, id.into_inner(), caller.account.into(), token, false).await? {
        Verified::Ok { .. } => Ok(HttpResponse::Ok().json(json!({ "status": "OK" }))),
        Verified::Invalid => {
            Err(Refused::new(QUEUE_TOKEN_INVALID, "This pass is not yours, or not for this sale event.").into())
        }
        Verified::Expired => Err(Refused::new(QUEUE_TOKEN_INVALID, "This pass has expired.").into()),
        Verified::Ended => Err(Refused::new(QUEUE_TOKEN_INVALID, "This pass has been used or given back.").into()),
    }
}
