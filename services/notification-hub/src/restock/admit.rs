//! Restock alerts that the hub's own worker sends: those whose first attempt failed or was lost. They are sent only while
//! the product is in stock, and as far as the limit of all alerts allows.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use common::Result;
use contract::ids::{NotificationId, ProductId};
use contract::inventory::StockLevel;
use diesel::{BoolExpressionMethods, ExpressionMethods, JoinOnDsl, QueryDsl};
use diesel_async::RunQueryDsl;
use futures_util::stream::{self, StreamExt};
use tokio::time::{Instant, timeout_at};

use crate::App;
use crate::channel::Channel;
use crate::claims::{AttemptResult, Claimed};
use crate::delivery::{Failure, Outcome};
use crate::email;
use crate::pace::Permits;
use crate::restock::round::{RoundStatus, is_sold_out};
use crate::restock::take_permits::take_permits;
use crate::schema::{product_notification_history, product_user_notification_history};

/// How long alerts wait that cannot be decided on for now.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long inventory may take to say what has sold out: a claim ends a good while later.
const STOCKS_MAX: Duration = Duration::from_secs(3);

/// Products that inventory is asked for at the same time.
const STOCKS_AT_ONCE: usize = 8;

/// Divides claimed deliveries into those that may be sent now and the results of the others. What of them cannot be found out
/// waits, and keeps nothing else of the claim waiting.
pub async fn admit(
    app: &App,
    channel: Channel,
    claimed: Vec<Claimed>,
    deadline: Instant,
) -> (Vec<Claimed>, Vec<AttemptResult>) {
    // The first attempt of an alert is its round's runner's. An operator's retry counts from 1 again, after an error.
    let is_retried = |delivery: &&Claimed| delivery.attempt.number > 1 || delivery.last_error.is_some();
    let Some(first) = claimed.iter().find(is_retried).map(|delivery| delivery.attempt.delivery) else {
        return (claimed, Vec::new());
    };
    let retried: Vec<NotificationId> = claimed.iter().filter(is_retried).map(|one| one.notification).collect();
    let (alerts, sold_out, permits) = match look(app, channel, &claimed, &retried, deadline).await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(
                %error, deliveryId = %first, deliveries = retried.len(),
                "It cannot be found out which deliveries are restock alerts, and whether they may go; they are tried again in \
                 a second"
            );
            let nobody = Permits { granted: 0, wait: LOOK_AGAIN };
            (retried.into_iter().collect(), HashSet::new(), nobody)
        }
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
    (admitted, others)
}

/// Which of the `retried` are alerts, which of those are of products that have sold out, and how many of the others may go.
async fn look(
    app: &App,
    channel: Channel,
    claimed: &[Claimed],
    retried: &[NotificationId],
    deadline: Instant,
) -> Result<(HashSet<NotificationId>, HashSet<NotificationId>, Permits)> {
    let rounds = rounds_of(app, retried).await?;
    let alerts: HashSet<NotificationId> = rounds.iter().map(|(notification, ..)| *notification).collect();
    let sold_out = of_sold_out_products(app, rounds).await;
    let is_sellable = |one: &&Claimed| alerts.contains(&one.notification) && !sold_out.contains(&one.notification);
    let count = claimed.iter().filter(is_sellable).count();
    if count == 0 {
        return Ok((alerts, sold_out, Permits { granted: 0, wait: Duration::ZERO }));
    }
    if channel == Channel::Email {
        // The addresses are kept for a moment. A permit is used at once, and not after a look at them.
        email::look_up(app, claimed.iter().filter(is_sellable), deadline).await;
    }
    // Of the same allowance that the runners take from: an operator who redrives thousands sends no faster than a round.
    let permits = take_permits(&app.db, app.settings.restock.pace(), count as u32).await?;
    Ok((alerts, sold_out, permits))
}

type RoundOf = (NotificationId, ProductId, RoundStatus, i64);

/// Those of `rounds` whose product has sold out since. Inventory is asked once for each product; while it does not answer, only
/// rounds that sold out in the middle are known to be.
async fn of_sold_out_products(app: &App, rounds: Vec<RoundOf>) -> HashSet<NotificationId> {
    let products: HashSet<ProductId> = rounds.iter().map(|(_, product, ..)| *product).collect();
    let end = Instant::now() + STOCKS_MAX;
    let asked = products.into_iter().map(|product| async move {
        let stock = timeout_at(end, app.restock.stocks.get(product)).await.ok()?.ok()?;
        Some((product, stock.level))
    });
    let answers: Vec<Option<(ProductId, StockLevel)>> =
        stream::iter(asked).buffer_unordered(STOCKS_AT_ONCE).collect().await;
    let levels: HashMap<ProductId, StockLevel> = answers.into_iter().flatten().collect();
    let sold_out = rounds.into_iter().filter(|(_, product, status, stock_version)| {
        let level = levels.get(product);
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
