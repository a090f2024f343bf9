//! Restock alerts that the hub's own worker sends: those whose first attempt failed or was lost. They are sent only while
//! the product is in stock.

use std::collections::{HashMap, HashSet};

use common::Result;
use contract::ids::{NotificationId, ProductId};
use diesel::{BoolExpressionMethods, ExpressionMethods, JoinOnDsl, QueryDsl};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::channel::Channel;
use crate::claims::{AttemptResult, Claimed};
use crate::delivery::{Failure, Outcome};
use crate::restock::round::{RoundStatus, is_sold_out};
use crate::schema::{product_notification_history, product_user_notification_history};

/// Divides claimed deliveries into those that may be sent and the results of the others.
pub async fn admit(app: &App, channel: Channel, claimed: Vec<Claimed>) -> Result<(Vec<Claimed>, Vec<AttemptResult>)> {
    // The first attempt of an alert is its round's runner's. An operator's retry counts from 1 again, after an error.
    let retried = claimed.iter().filter(|delivery| delivery.attempt.number > 1 || delivery.last_error.is_some());
    let retried: Vec<NotificationId> = retried.map(|delivery| delivery.notification).collect();
    if retried.is_empty() {
        return Ok((claimed, Vec::new()));
    }
    let sold_out = of_sold_out_products(app, &retried).await?;
    let (refused, admitted): (Vec<_>, Vec<_>) =
        claimed.into_iter().partition(|delivery| sold_out.contains(&delivery.notification));
    let retry_delays = app.settings.retry_delays(channel);
    let result = |delivery: &Claimed| delivery.attempt.result(Outcome::NotSent(Failure::SoldOut), &retry_delays);
    Ok((admitted, refused.iter().map(result).collect()))
}

type RoundOf = (NotificationId, ProductId, RoundStatus, i64);

/// Those of `notifications` that are alerts of a round whose product has sold out since. Inventory is asked once for each
/// product; while it is away, only rounds that sold out in the middle are known to be.
async fn of_sold_out_products(app: &App, notifications: &[NotificationId]) -> Result<HashSet<NotificationId>> {
    let rounds = rounds_of(app, notifications).await?;
    let mut levels = HashMap::new();
    for (_, product, _, _) in &rounds {
        if !levels.contains_key(product) {
            levels.insert(*product, app.restock.stocks.get(*product).await.ok().map(|stock| stock.level));
        }
    }
    let sold_out = rounds.into_iter().filter(|(_, product, status, stock_version)| {
        let level = levels.get(product).and_then(Option::as_ref);
        *status == RoundStatus::CanceledBySoldOut
            || level.is_some_and(|level| is_sold_out(*stock_version, level.version, level.available))
    });
    Ok(sold_out.map(|(notification, ..)| notification).collect())
}

async fn rounds_of(app: &App, notifications: &[NotificationId]) -> Result<Vec<RoundOf>> {
    use product_notification_history as round;
    use product_user_notification_history as told;
    let of_round = round::product_id.eq(told::product_id).and(round::round.eq(told::round));
    let rounds = told::table
        .inner_join(round::table.on(of_round))
        .filter(told::notification_id.eq_any(notifications))
        .select((told::notification_id, round::product_id, round::status, round::stock_version))
        .load(&mut *app.db.read().await?)
        .await?;
    Ok(rounds)
}
