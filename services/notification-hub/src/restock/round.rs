//! Rules of a restock round: when its campaign starts, what ends it, how far it is, and when it may go on.

use contract::ids::{NotificationId, ProductId, RestockRoundId};
use diesel::QueryableByName;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::{self, BigInt, Text};
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr, VariantArray};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::notification::Refused;

/// The state of a round's campaign: `IN_PROGRESS`, and one of three ends. Only the error is no last word.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    VariantArray,
    IntoStaticStr,
    EnumString,
    AsExpression,
    FromSqlRow,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[diesel(sql_type = Text)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RoundStatus {
    InProgress,
    /// The product sold out before everybody was told.
    CanceledBySoldOut,
    /// Something of ours is broken; an operator may have it go on.
    CanceledByError,
    Completed,
}

impl RoundStatus {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl FromSql<Text, Pg> for RoundStatus {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        common::sql::from_name(value)
    }
}

impl ToSql<Text, Pg> for RoundStatus {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <str as ToSql<Text, Pg>>::to_sql(self.name(), out)
    }
}

/// Which round of which product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundKey {
    pub product: ProductId,
    pub round: i64,
}

impl RoundKey {
    pub fn id(self) -> RestockRoundId {
        RestockRoundId::derive(&[self.product.as_bytes(), &self.round.to_be_bytes()])
    }

    /// What stands for the event of a subscriber's alert: the same however often the batch is written.
    pub fn alert_event(self, subscription: i64) -> Uuid {
        common::id::derive_uuid("restock alert", &[self.id().as_bytes(), &subscription.to_be_bytes()])
    }

    pub fn notification(self, subscription: i64) -> NotificationId {
        NotificationId::derive(&[self.alert_event(subscription).as_bytes()])
    }
}

/// A round as its runner has it.
#[derive(Debug, Clone, QueryableByName)]
pub struct Run {
    #[diesel(sql_type = sql_types::Uuid)]
    product: ProductId,
    #[diesel(sql_type = BigInt)]
    round: i64,
    #[diesel(sql_type = BigInt)]
    pub epoch: i64,
    /// Of the stock when the round began.
    #[diesel(sql_type = BigInt)]
    pub stock_version: i64,
    #[diesel(sql_type = BigInt)]
    pub start_tx: i64,
}

impl Run {
    pub fn key(&self) -> RoundKey {
        RoundKey { product: self.product, round: self.round }
    }
}

/// What a round that is to begin finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Nothing is in its way; where the round before still runs, it ends: the product sold out in between.
    Begin { ends_before: bool },
    /// It has begun already.
    Known,
    /// A later round has begun. This one ends as it begins: its product sold out before its news came.
    Late,
}

/// `newest` is the product's newest round so far.
pub fn start(newest: Option<(i64, RoundStatus)>, round: i64) -> Start {
    match newest {
        Some((known, _)) if known == round => Start::Known,
        Some((known, _)) if known > round => Start::Late,
        Some((_, status)) => Start::Begin { ends_before: status == RoundStatus::InProgress },
        None => Start::Begin { ends_before: false },
    }
}

/// Whether a level of the stock ends a round that began with the stock at `stock_version`. News of the time before the
/// round ends nothing, however late it comes.
pub fn is_sold_out(stock_version: i64, version: i64, available: i64) -> bool {
    version > stock_version && available <= 0
}

/// Refuses with `ROUND_NOT_RESUMABLE` unless an error ended the round and no later one has begun.
pub fn resume(key: RoundKey, status: RoundStatus, newest: i64) -> Result<(), Refused> {
    if status == RoundStatus::CanceledByError && newest <= key.round {
        return Ok(());
    }
    Err(Refused::RoundNotResumable { product: key.product, round: key.round, status: status.name() })
}

/// Where the round's cursor is after a batch. Late subscriptions lie before it and do not move it back.
pub fn cursor_after(cursor: i64, batch: &[i64]) -> i64 {
    batch.iter().copied().fold(cursor, i64::max)
}

/// What follows an error of the runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterError {
    Retry,
    Cancel,
}

/// `failures` is how many in a row there were, this one included.
pub fn after_error(is_transient: bool, failures: u32, failures_max: u32) -> AfterError {
    if is_transient && failures < failures_max { AfterError::Retry } else { AfterError::Cancel }
}

#[cfg(test)]
mod tests;
