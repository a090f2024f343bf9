//! The rows of redemptions and of the issues that they take, locked in one order.
//!
//! Whoever changes a redemption has locked its issue; issues are locked by id. So the rows of redemptions need no locks of
//! their own, and no two flows can deadlock.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use common::db::{Prepared, Tx};
use common::sql::from_name;
use common::{Error, Result};
use contract::ids::{AccountId, CouponId, CouponIssueId, OrderId, PaymentAttemptId, ProductId};
use contract::money::Currency;
use diesel::deserialize::{self, FromSql};
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::{Array, BigInt, Bool, Jsonb, Nullable, Text, Timestamptz, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;

use crate::coupon::{Discount, DiscountKind, Terms};
use crate::plan::{Facts, Issue, Plan, Told};
use crate::redemption::{Claim, Pin, Redemption, RedemptionState};

/// A redemption has appeared between the look at the rows and their locks. Rolls the transaction back, to be run again.
#[derive(Debug, thiserror::Error)]
#[error("a redemption has appeared meanwhile")]
pub struct RedemptionAppeared;

impl FromSql<Text, Pg> for RedemptionState {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        from_name(value)
    }
}

impl ToSql<Text, Pg> for RedemptionState {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <str as ToSql<Text, Pg>>::to_sql(self.name(), out)
    }
}

impl FromSql<Text, Pg> for DiscountKind {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        from_name(value)
    }
}

impl ToSql<Text, Pg> for DiscountKind {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <str as ToSql<Text, Pg>>::to_sql(self.into(), out)
    }
}

#[derive(QueryableByName)]
struct IssueRow {
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Uuid>)]
    id: Option<CouponIssueId>,
    #[diesel(sql_type = Nullable<Uuid>)]
    coupon_id: Option<CouponId>,
    #[diesel(sql_type = Nullable<Uuid>)]
    user_id: Option<AccountId>,
    #[diesel(sql_type = Nullable<BigInt>)]
    version: Option<i64>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    expires_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Text>)]
    discount_kind: Option<DiscountKind>,
    #[diesel(sql_type = Nullable<BigInt>)]
    discount_value: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    minimum_amount: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    maximum_discount: Option<i64>,
    #[diesel(sql_type = Nullable<Array<Uuid>>)]
    product_ids: Option<Vec<ProductId>>,
    #[diesel(sql_type = Nullable<Bool>)]
    restored_on_refund: Option<bool>,
}

impl IssueRow {
    fn into_issue(self) -> Option<Issue> {
        let terms = Terms {
            discount: Discount { kind: self.discount_kind?, value: self.discount_value? },
            currency: Currency::Krw,
            minimum_amount: self.minimum_amount?,
            maximum_discount: self.maximum_discount,
            products: self.product_ids?,
            restored_on_refund: self.restored_on_refund?,
        };
        Some(Issue {
            id: self.id?,
            coupon: self.coupon_id?,
            user: self.user_id?,
            version: self.version?,
            coupon_expires_at: self.expires_at?,
            terms,
        })
    }
}

#[derive(QueryableByName)]
struct RedemptionRow {
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
    #[diesel(sql_type = Uuid)]
    order_id: OrderId,
    #[diesel(sql_type = Nullable<Uuid>)]
    coupon_issue_id: Option<CouponIssueId>,
    #[diesel(sql_type = Nullable<Uuid>)]
    coupon_id: Option<CouponId>,
    #[diesel(sql_type = Nullable<Uuid>)]
    user_id: Option<AccountId>,
    #[diesel(sql_type = Text)]
    state: RedemptionState,
    #[diesel(sql_type = Timestamptz)]
    expires_at: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Uuid>)]
    pinned_by: Option<PaymentAttemptId>,
    #[diesel(sql_type = Bool)]
    pinned_late: bool,
    #[diesel(sql_type = Array<Uuid>)]
    unpinned_by: Vec<PaymentAttemptId>,
    #[diesel(sql_type = Nullable<BigInt>)]
    order_version: Option<i64>,
    #[diesel(sql_type = BigInt)]
    discount: i64,
    #[diesel(sql_type = Text)]
    currency: String,
    #[diesel(sql_type = Jsonb)]
    lines: Value,
    #[diesel(sql_type = Nullable<Bool>)]
    restored_on_refund: Option<bool>,
}

/// A redemption as it was read.
pub struct Found {
    pub redemption: Redemption,
    /// None of a tombstone, and of an old redemption.
    pub told: Option<Told>,
    /// The database's clock.
    pub now: DateTime<Utc>,
}

impl RedemptionRow {
    fn into_found(self) -> Result<Found> {
        let (now, told) = (self.now, self.restored_on_refund);
        let told = told.map(|restored_on_refund| Told { restored_on_refund });
        Ok(Found { redemption: self.into_redemption()?, told, now })
    }

    fn into_redemption(self) -> Result<Redemption> {
        let claim = match (self.coupon_issue_id, self.coupon_id, self.user_id) {
            (Some(issue), Some(coupon), Some(user)) => Some(Claim {
                issue,
                coupon,
                user,
                discount: self.discount,
                currency: self.currency,
                lines: serde_json::from_value(self.lines).map_err(Error::fault)?,
            }),
            _ => None,
        };
        Ok(Redemption {
            order: self.order_id,
            claim,
            state: self.state,
            expires_at: self.expires_at,
            pin: self.pinned_by.map(|attempt| Pin { attempt, late: self.pinned_late }),
            unpinned_by: self.unpinned_by,
            order_version: self.order_version,
        })
    }
}

/// The redemptions of `orders` that there are and the living ones of `issues`. Not locked.
pub async fn read_redemptions(
    conn: &mut AsyncPgConnection,
    orders: &[OrderId],
    issues: &[CouponIssueId],
) -> Result<Vec<Found>> {
    let query = sql_query(include_str!("redemption_rows_read.sql"))
        .bind::<Array<Uuid>, _>(orders)
        .bind::<Array<Uuid>, _>(issues);
    let rows: Vec<RedemptionRow> = Prepared(query).load(conn).await?;
    rows.into_iter().map(RedemptionRow::into_found).collect()
}

/// Locks `issues` and those of the redemptions that `orders` have, and reads everything that a plan needs. The clock is
/// that after the wait for the locks.
pub async fn lock_facts(
    tx: &mut Tx,
    orders: &[OrderId],
    issues: BTreeSet<CouponIssueId>,
) -> Result<(Facts, DateTime<Utc>)> {
    let mut issues = issues;
    let seen = read_redemptions(tx, orders, &[]).await?;
    issues.extend(seen.iter().filter_map(|found| Some(found.redemption.claim.as_ref()?.issue)));
    let issues = Vec::from_iter(issues);
    let query = sql_query(include_str!("redemption_rows_lock.sql")).bind::<Array<Uuid>, _>(&issues);
    let rows: Vec<IssueRow> = Prepared(query).load(tx).await?;
    let now =
        rows.iter().map(|row| row.now).max().ok_or_else(|| Error::fault(anyhow::anyhow!("the clock is missing")))?;
    let locked = rows.into_iter().filter_map(IssueRow::into_issue).map(|issue| (issue.id, issue));
    let mut facts = Facts { issues: locked.collect(), ..Facts::default() };
    for Found { redemption, told, .. } in read_redemptions(tx, orders, &issues).await? {
        if redemption.claim.as_ref().is_some_and(|claim| !facts.issues.contains_key(&claim.issue)) {
            return Err(Error::transient(RedemptionAppeared));
        }
        facts.told.extend(told.map(|told| (redemption.order, told)));
        facts.redemptions.insert(redemption.order, redemption);
    }
    Ok((facts, now))
}

/// Writes what `plan` has decided. A redemption that gives its coupon up is written before the one that gets it, in a statement
/// of its own: PostgreSQL looks for two living redemptions of one issue after each row.
pub async fn write(tx: &mut Tx, plan: &Plan, now: DateTime<Utc>) -> Result<()> {
    let changed = plan.changed.iter().filter_map(|order| plan.redemptions.get(order));
    let (living, ended): (Vec<&Redemption>, Vec<&Redemption>) = changed.partition(|redemption| redemption.is_living());
    update_redemptions(tx, plan, &ended, now).await?;
    update_redemptions(tx, plan, &living, now).await?;
    insert_redemptions(tx, plan, now).await?;
    if !plan.raised.is_empty() {
        let raised = || plan.raised.iter().filter_map(|id| plan.issues.get(id));
        let query = sql_query(include_str!("redemption_rows_raise.sql"))
            .bind::<Array<Uuid>, _>(raised().map(|issue| issue.id).collect::<Vec<_>>())
            .bind::<Array<BigInt>, _>(raised().map(|issue| issue.version).collect::<Vec<_>>());
        Prepared(query).execute(tx).await?;
    }
    Ok(())
}

async fn update_redemptions(tx: &mut Tx, plan: &Plan, changed: &[&Redemption], now: DateTime<Utc>) -> Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let changed = || changed.iter();
    let query = sql_query(include_str!("redemption_rows_update.sql"))
        .bind::<Timestamptz, _>(now)
        .bind::<Array<Uuid>, _>(changed().map(|redemption| redemption.order).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(changed().map(|redemption| redemption.state).collect::<Vec<_>>())
        .bind::<Array<Timestamptz>, _>(changed().map(|redemption| redemption.expires_at).collect::<Vec<_>>())
        .bind::<Array<Nullable<Uuid>>, _>(
            changed().map(|redemption| redemption.pin.map(|pin| pin.attempt)).collect::<Vec<_>>(),
        )
        .bind::<Array<Bool>, _>(
            changed().map(|redemption| redemption.pin.is_some_and(|pin| pin.late)).collect::<Vec<_>>(),
        )
        .bind::<Array<Text>, _>(changed().map(|redemption| array_text(&redemption.unpinned_by)).collect::<Vec<_>>())
        .bind::<Array<Nullable<BigInt>>, _>(changed().map(|redemption| redemption.order_version).collect::<Vec<_>>())
        .bind::<Array<Nullable<Text>>, _>(
            changed().map(|redemption| plan.reasons.get(&redemption.order)).collect::<Vec<_>>(),
        );
    Prepared(query).execute(tx).await?;
    Ok(())
}

async fn insert_redemptions(tx: &mut Tx, plan: &Plan, now: DateTime<Utc>) -> Result<()> {
    if plan.created.is_empty() {
        return Ok(());
    }
    let created = || plan.created.iter().filter_map(|order| plan.redemptions.get(order));
    let claims = || created().map(|redemption| redemption.claim.as_ref());
    let lines = claims().map(|claim| claim.map_or(Ok(Value::Array(Vec::new())), |c| serde_json::to_value(&c.lines)));
    let query = sql_query(include_str!("redemption_rows_insert.sql"))
        .bind::<Timestamptz, _>(now)
        .bind::<Array<Uuid>, _>(created().map(|redemption| redemption.order).collect::<Vec<_>>())
        .bind::<Array<Nullable<Uuid>>, _>(claims().map(|claim| Some(claim?.issue)).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(created().map(|redemption| redemption.state).collect::<Vec<_>>())
        .bind::<Array<Timestamptz>, _>(created().map(|redemption| redemption.expires_at).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(claims().map(|claim| claim.map_or(0, |claim| claim.discount)).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(claims().map(|claim| claim.map_or("", |claim| &claim.currency)).collect::<Vec<_>>())
        .bind::<Array<Jsonb>, _>(lines.collect::<Result<Vec<_>, _>>().map_err(Error::fault)?)
        .bind::<Array<Nullable<Uuid>>, _>(
            created().map(|redemption| redemption.pin.map(|pin| pin.attempt)).collect::<Vec<_>>(),
        )
        .bind::<Array<Bool>, _>(
            created().map(|redemption| redemption.pin.is_some_and(|pin| pin.late)).collect::<Vec<_>>(),
        )
        .bind::<Array<Text>, _>(created().map(|redemption| array_text(&redemption.unpinned_by)).collect::<Vec<_>>())
        .bind::<Array<Nullable<BigInt>>, _>(created().map(|redemption| redemption.order_version).collect::<Vec<_>>())
        .bind::<Array<Nullable<Text>>, _>(
            created().map(|redemption| plan.reasons.get(&redemption.order)).collect::<Vec<_>>(),
        )
        .bind::<Array<Nullable<Bool>>, _>(
            created().map(|redemption| Some(plan.told.get(&redemption.order)?.restored_on_refund)).collect::<Vec<_>>(),
        );
    if Prepared(query).execute(tx).await? != plan.created.len() {
        return Err(Error::transient(RedemptionAppeared));
    }
    Ok(())
}

/// As PostgreSQL writes an array.
fn array_text(ids: &[PaymentAttemptId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    format!("{{{}}}", ids.join(","))
}
