//! Restock alerts that the hub's own worker sends: those whose first attempt failed or was lost. They are sent only while
//! the product is in stock, and as far as the limit of all alerts allows.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use common::Result;
use contract::ids::{NotificationId, ProductId};
use diesel::{BoolExpressionMethods, ExpressionMethods, JoinOnDsl, QueryDsl};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::channel::Channel;
use crate::claims::{AttemptResult, Claimed};
use crate::delivery::{Failure, Outcome};
use crate::pace::Permits;
use crate::restock::round::{RoundStatus, is_sold_out};
use crate::schema::{product_notification_history, product_user_notification_history};

/// Divides claimed deliveries into those that may be sent now and the results of the others.
pub async fn admit(app: &App, channel: Channel, claimed: Vec<Claimed>) -> Result<(Vec<Claimed>, Vec<AttemptResult>)> {
    // The first attempt of an alert is its round's runner's. An operator's retry counts from 1 again, after an error.
    let retried = claimed.iter().filter(|delivery| delivery.attempt.number > 1 || delivery.last_error.is_some());
    let retried: Vec<NotificationId> = retried.map(|delivery| delivery.notification).collect();
    if retried.is_empty() {
        return Ok((claimed, Vec::new()));
    }
    let rounds = rounds_of(app, &retried).await?;
    let alerts: HashSet<NotificationId> = rounds.iter().map(|(notification, ..)| *notification).collect();
    let sold_out = of_sold_out_products(app, rounds).await;
    let sellable =
        claimed.iter().filter(|one| alerts.contains(&one.notification) && !sold_out.contains(&one.notification));
    // Of the same allowance that the runners take from: an operator who redrives thousands sends no faster than a round.
    let permits = match sellable.count() {
        0 => Permits { granted: 0, wait: Duration::ZERO },
        count => app.restock.limiter.take(count as u32).await,
    };
    let (mut free, mut held) = (permits.granted, 0);
    let retry_delays = app.settings.retry_delays(channel);
    let (mut admitted, mut others) = (Vec::with_capacity(claimed.len()), Vec::new());
    for delivery in claimed {
        let outcome = match () {
            () if sold_out.contains(&delivery.notification) => Outcome::NotSent(Failure::SoldOut),
            () if alerts.contains(&delivery.notification) && free == 0 => {
                held += 1;
                Outcome::HeldBack(permits.wait_of(held - 1, app.settings.restock.pace()))
            }
            () => {
                free -= u32::from(alerts.contains(&delivery.notification));
                admitted.push(delivery);
                continue;
            }
        };
        others.push(delivery.attempt.result(outcome, &retry_delays));
    }
    Ok((admitted, others))
}

type RoundOf = (NotificationId, ProductId, RoundStatus, i64);

/// Those of `rounds` whose product has sold out since. Inventory is asked once for each product; while it is away, only
/// rounds that sold out in the middle are known to be.
async fn of_sold_out_products(app: &App, rounds: Vec<RoundOf>) -> HashSet<NotificationId> {
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
    sold_out.map(|(notification, ..)| notification).collect()
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
