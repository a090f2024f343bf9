//! Loop: orders that nobody paid in time become `EXPIRED`, with `ORDER_EXPIRED`. Several replicas may run it at once.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use common::db::Prepared;
use common::{Result, outbox};
use contract::events::OrderExpired;
use contract::ids::{AccountId, CouponIssueId, OrderId};
use diesel::sql_types as sql;
use diesel_async::RunQueryDsl;

use crate::App;

#[derive(diesel::QueryableByName)]
struct Expired {
    #[diesel(sql_type = sql::Uuid)]
    id: OrderId,
    #[diesel(sql_type = sql::Uuid)]
    user_id: AccountId,
    #[diesel(sql_type = sql::BigInt)]
    version: i64,
    #[diesel(sql_type = sql::Timestamptz)]
    updated_at: DateTime<Utc>,
    #[diesel(sql_type = sql::Nullable<sql::Uuid>)]
    coupon_issue_id: Option<CouponIssueId>,
}

/// Takes chunk after chunk until no order is due. Inventory ends the hold by its own clock; the event only confirms that.
pub async fn expire_orders(app: Arc<App>) -> Result<()> {
    loop {
        let chunk = app.expire_chunk;
        let expired = app
            .db
            .tx("expire_orders", async |tx| {
                let sweep = diesel::sql_query(include_str!("expire_orders.sql")).bind::<sql::BigInt, _>(chunk);
                let due: Vec<Expired> = Prepared(sweep).load(tx).await?;
                let events: Vec<OrderExpired> = due
                    .iter()
                    .map(|order| OrderExpired {
                        order_id: order.id.to_string(),
                        user_id: order.user_id.to_string(),
                        version: order.version,
                        hold_id: order.id.to_string(),
                        expired_at: Some(order.updated_at.into()),
                        coupon_issue_id: order.coupon_issue_id.map(|id| id.to_string()).unwrap_or_default(),
                    })
                    .collect();
                outbox::publish_all(tx, &events).await?;
                if !events.is_empty() {
                    tx.point("expire_orders.before_commit").await;
                }
                Ok(due.len())
            })
            .await?;
        if expired > 0 {
            metrics::counter!("stampede_orders_total", "outcome" => "expired").increment(expired as u64);
            tracing::info!(orders = expired, "Expired {expired} orders that were not paid in time");
        }
        if (expired as i64) < chunk {
            return Ok(());
        }
    }
}
