//! Events of sales: what the queue tells is what buyers are checked against.

use chrono::{DateTime, Utc};
use common::db::Tx;
use common::inbox::{Handler, Received};
use common::{Error, Result};
use contract::events::{EventClosed, EventOpen, EventScheduled, SaleRules};
use contract::ids::ProductId;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::sale::Sale;
use crate::sales::Sales;
use crate::schema::sale_events;

impl Handler<EventScheduled> for Sales {
    async fn handle(&self, tx: &mut Tx, events: &[Received<EventScheduled>]) -> Result<()> {
        for Received { event, .. } in events {
            let EventScheduled { event_id, version, opens_at, closes_at, product_ids, rules, .. } = event.clone();
            let times = (opens_at.map(DateTime::try_from), closes_at.map(DateTime::try_from));
            store(tx, &sale(&event_id, version, times, &product_ids, rules)?).await?;
        }
        self.read_after(tx);
        Ok(())
    }
}

impl Handler<EventOpen> for Sales {
    async fn handle(&self, tx: &mut Tx, events: &[Received<EventOpen>]) -> Result<()> {
        for Received { event, .. } in events {
            let EventOpen { event_id, version, opens_at, closes_at, product_ids, rules, .. } = event.clone();
            let times = (opens_at.map(DateTime::try_from), closes_at.map(DateTime::try_from));
            store(tx, &sale(&event_id, version, times, &product_ids, rules)?).await?;
        }
        self.read_after(tx);
        Ok(())
    }
}

impl Handler<EventClosed> for Sales {
    async fn handle(&self, tx: &mut Tx, events: &[Received<EventClosed>]) -> Result<()> {
        for Received { event, .. } in events {
            let EventClosed { event_id, version, closed_at, product_ids } = event;
            let times = (closed_at.map(DateTime::try_from), None);
            let ended = Sale { closed: true, ..sale(event_id, *version, times, product_ids, None)? };
            store(tx, &ended).await?;
        }
        self.read_after(tx);
        Ok(())
    }
}

/// The newest version stays, in whichever order they come: each kind of event is a topic of its own.
async fn store(tx: &mut Tx, sale: &Sale) -> Result<()> {
    let insert = diesel::insert_into(sale_events::table).values(sale).on_conflict_do_nothing();
    if insert.execute(tx).await? == 0 {
        let older = sale_events::table.find(sale.event_id).filter(sale_events::version.lt(sale.version));
        diesel::update(older).set(sale).execute(tx).await?;
    }
    Ok(())
}

/// A time that was told, if it was; the error is that no calendar has it.
type Time = Option<Result<DateTime<Utc>, &'static str>>;

fn sale(
    event: &str,
    version: i64,
    (opens_at, closes_at): (Time, Time),
    product_ids: &[String],
    rules: Option<SaleRules>,
) -> Result<Sale> {
    let rules = rules.unwrap_or_default();
    let opens_at = opens_at.ok_or_else(|| anyhow::anyhow!("sale event {event} has no time"))?;
    Ok(Sale {
        event_id: event.parse().map_err(Error::fault)?,
        version,
        opens_at: opens_at.map_err(anyhow::Error::msg)?,
        closes_at: closes_at.transpose().map_err(anyhow::Error::msg)?,
        closed: false,
        product_ids: product_ids
            .iter()
            .map(|id| id.parse::<ProductId>().map_err(Error::fault))
            .collect::<Result<_>>()?,
        queue_manage_required: rules.queue_manage_required,
        verify_offline: rules.verify_offline,
        closed_on_outage: rules.closed_on_outage,
        rate_per_minute: rules.rate_per_minute.max(1),
        pass_key: rules.pass_key,
    })
}
