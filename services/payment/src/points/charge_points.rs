//! `POST /points/charge`: points for nothing, for demonstrations and tests. A shop turns it off.

use actix_web::{HttpResponse, post};
use chrono::{DateTime, Utc};
use common::auth::Caller;
use common::http::{Data, Json, Problem, detach};
use common::idempotency::{IdempotencyKey, REPLAYED_HEADER, fingerprint, same_request};
use common::{Error, Result};
use contract::ids::AccountId;
use contract::money::Money;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::points::Points;
use crate::points::ledger::{self, Kind};
use crate::points::rows::{self, Posting, Transfer, transfer_id};
use crate::read_payments::rfc3339;

/// Of the request's shape; see [`fingerprint`].
const FINGERPRINT_VERSION: u8 = 1;

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChargePoints {
    /// One point is one won. From 1 to the setting `payment.points.charge_max`.
    #[serde(deserialize_with = "common::object::one")]
    pub amount: Money,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChargedPoints {
    amount: Money,
    /// After this charge.
    balance: Money,
    charged_at: String,
}

/// Charge one's points.
///
/// Nobody is asked for money: this stands in for buying points until a provider sells them, and is for demonstrations
/// and tests. `payment.points.charge_max = 0` turns it off, and then it answers FORBIDDEN. The same key and body give
/// the same answer.
#[utoipa::path(
    tag = "points",
    request_body = ChargePoints,
    params(("Idempotency-Key" = String, Header, description = "1 to 255 visible ASCII characters, chosen by the client for this intent")),
    responses(
        (status = 201, body = ChargedPoints),
        (status = 400, body = Problem, description = "VALIDATION_ERROR, IDEMPOTENCY_KEY_REQUIRED"),
        (status = 403, body = Problem, description = "FORBIDDEN: nobody can charge here"),
        (status = 422, body = Problem, description = "IDEMPOTENCY_KEY_REUSED"),
    ),
    security(("bearer" = []))
)]
#[post("/points/charge")]
pub async fn charge_points(
    points: Data<Points>,
    caller: Caller,
    key: IdempotencyKey,
    Json(body): Json<ChargePoints>,
) -> Result<HttpResponse> {
    let user = AccountId::from(caller.account);
    let points = points.into_inner();
    let charged = detach(async move { charge(&points, user, &key, &body).await }).await?;
    let mut response = HttpResponse::Created();
    if charged.replayed {
        response.insert_header((REPLAYED_HEADER, "true"));
    }
    // Rendered from what never changes, so that a replay equals the first answer to the byte.
    Ok(response.json(ChargedPoints {
        amount: Money::krw(charged.amount),
        balance: Money::krw(charged.balance),
        charged_at: rfc3339(charged.charged_at),
    }))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charged {
    pub amount: i64,
    pub balance: i64,
    pub charged_at: DateTime<Utc>,
    pub replayed: bool,
}

pub async fn charge(points: &Points, user: AccountId, key: &IdempotencyKey, body: &ChargePoints) -> Result<Charged> {
    let id = transfer_id(Kind::Charge, &[user.as_bytes(), key.as_bytes()]);
    let (amount, max) = (body.amount.amount, points.charge_max);
    let fingerprint = fingerprint(FINGERPRINT_VERSION, body);
    let charge = points.db.tx("charge_points", async |tx| {
        let balance = rows::lock_balance(tx, user).await?;
        // After the lock: a request with the same key has committed by now.
        if let Some(known) = rows::transfer(tx, id).await? {
            return replay(&known, &fingerprint);
        }
        let movement = ledger::charge(balance, amount, max)?;
        let posting = Posting { id, user, payment: None, movement, fingerprint: Some(fingerprint.clone()) };
        let posted = rows::post(tx, &[posting]).await?;
        let of_user = posted.iter().find_map(|posted| Some((posted.balance?, posted.created_at)));
        let (balance, charged_at) = of_user.ok_or_else(|| Error::fault(anyhow::anyhow!("a charge without a user")))?;
        Ok(Charged { amount, balance, charged_at, replayed: false })
    });
    charge.await
}

fn replay(known: &Transfer, presented: &[u8]) -> Result<Charged> {
    let (Some(stored), Some(balance)) = (&known.fingerprint, known.balance) else {
        return Err(Error::fault(anyhow::anyhow!("a charge without a fingerprint or a user")));
    };
    same_request(stored, presented)?;
    Ok(Charged { amount: known.amount, balance, charged_at: known.created_at, replayed: true })
}
