//! Sale events as this process has heard of them. Their news come over several topics of Kafka and in any order.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use contract::events::{EventClosed, EventOpen, EventScheduled, EventSoldOut, NOT_SOLD_OUT};
use contract::ids::SaleEventId;
use serde::Serialize;
use utoipa::ToSchema;

use super::topics::Wanted;
use crate::wording::{instant, time_data};

/// Sale events that are remembered. Those that are closed are forgotten first, then the oldest.
const SALES_MAX: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum SaleStatus {
    Pending,
    Open,
    Closed,
}

/// A sale event in the data of `event.scheduled`, `event.open`, `event.soldout`, `event.closed` and `snapshot`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SaleNews {
    event_id: SaleEventId,
    /// Of the sale event: news with a lower one are older.
    #[schema(example = 3)]
    version: i64,
    status: SaleStatus,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    opens_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opened_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    closes_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_at: Option<String>,
    /// `TENTATIVE`: units are held for orders that may lapse. `FINAL`: everything is sold.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "TENTATIVE")]
    sold_out: Option<String>,
    /// Units that are held, when it was sold out.
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<i64>,
    product_ids: Vec<String>,
}

/// Something that happened to a sale event.
#[derive(Debug, Clone, Copy)]
pub enum SaleFact<'a> {
    Scheduled(&'a EventScheduled),
    Open(&'a EventOpen),
    SoldOut(&'a EventSoldOut),
    Closed(&'a EventClosed),
}

impl SaleFact<'_> {
    /// The `event` of the frame.
    pub fn kind(self) -> &'static str {
        match self {
            SaleFact::Scheduled(_) => "event.scheduled",
            SaleFact::Open(_) => "event.open",
            SaleFact::SoldOut(_) => "event.soldout",
            SaleFact::Closed(_) => "event.closed",
        }
    }

    pub fn event_id(self) -> Option<SaleEventId> {
        let id = match self {
            SaleFact::Scheduled(event) => &event.event_id,
            SaleFact::Open(event) => &event.event_id,
            SaleFact::SoldOut(event) => &event.event_id,
            SaleFact::Closed(event) => &event.event_id,
        };
        id.parse().ok()
    }
}

#[derive(Debug)]
struct Sale {
    news: SaleNews,
    /// The version that name, times and products are of.
    schedule_version: i64,
    sold_out_version: i64,
}

impl Sale {
    fn unknown(event_id: SaleEventId) -> Sale {
        let news = SaleNews {
            event_id,
            version: 0,
            status: SaleStatus::Pending,
            name: String::new(),
            opens_at: None,
            opened_at: None,
            closes_at: None,
            closed_at: None,
            sold_out: None,
            held: None,
            product_ids: Vec::new(),
        };
        Sale { news, schedule_version: 0, sold_out_version: 0 }
    }

    /// Whether the fact is news.
    fn apply(&mut self, fact: SaleFact<'_>) -> bool {
        let time = |stamp: Option<DateTime<Utc>>| stamp.map(time_data);
        let Sale { news, schedule_version, sold_out_version } = self;
        let version = match fact {
            SaleFact::Scheduled(event) => {
                if event.version <= *schedule_version {
                    return false;
                }
                *schedule_version = event.version;
                news.name.clone_from(&event.name);
                news.opens_at = time(instant(event.opens_at));
                news.closes_at = time(instant(event.closes_at));
                news.product_ids.clone_from(&event.product_ids);
                // A queue of before this field says nothing of it.
                if event.version > *sold_out_version && !event.sold_out.is_empty() {
                    *sold_out_version = event.version;
                    news.sold_out = Some(event.sold_out.clone()).filter(|kind| kind != NOT_SOLD_OUT);
                    news.held = news.held.filter(|_| news.sold_out.is_some());
                }
                event.version
            }
            SaleFact::Open(event) => {
                if event.version > *schedule_version {
                    *schedule_version = event.version;
                    news.name.clone_from(&event.name);
                    news.opens_at = time(instant(event.opens_at));
                    news.closes_at = time(instant(event.closes_at));
                    news.product_ids.clone_from(&event.product_ids);
                }
                if news.status >= SaleStatus::Open {
                    return false;
                }
                news.status = SaleStatus::Open;
                news.opened_at = time(instant(event.opened_at));
                event.version
            }
            SaleFact::SoldOut(event) => {
                if event.version <= *sold_out_version {
                    return false;
                }
                *sold_out_version = event.version;
                news.sold_out = Some(event.kind.clone());
                news.held = Some(event.held);
                event.version
            }
            SaleFact::Closed(event) => {
                if news.status == SaleStatus::Closed {
                    return false;
                }
                news.status = SaleStatus::Closed;
                news.closed_at = time(instant(event.closed_at));
                event.version
            }
        };
        news.version = news.version.max(version);
        true
    }
}

#[derive(Debug, Default)]
pub struct Sales {
    by_id: BTreeMap<SaleEventId, Sale>,
}

impl Sales {
    /// What is known after `fact`. None: it was known before, or the fact names no sale event.
    pub fn hear(&mut self, fact: SaleFact<'_>) -> Option<&SaleNews> {
        let id = fact.event_id()?;
        if !self.by_id.contains_key(&id) && self.by_id.len() >= SALES_MAX {
            self.forget_one();
        }
        let sale = self.by_id.entry(id).or_insert_with(|| Sale::unknown(id));
        sale.apply(fact).then_some(&sale.news)
    }

    fn forget_one(&mut self) {
        let closed = self.by_id.values().find(|sale| sale.news.status == SaleStatus::Closed);
        match closed.map(|sale| sale.news.event_id) {
            Some(id) => drop(self.by_id.remove(&id)),
            // Ids begin with the time at which they were made.
            None => drop(self.by_id.pop_first()),
        }
    }

    /// What is known of those that are wanted. Of those that are closed only where they are wanted by name.
    pub fn known(&self, wanted: &Wanted<SaleEventId>) -> Vec<SaleNews> {
        match wanted {
            Wanted::All => {
                let current = self.by_id.values().filter(|sale| sale.news.status != SaleStatus::Closed);
                current.map(|sale| sale.news.clone()).collect()
            }
            Wanted::Only(ids) => ids.iter().filter_map(|id| Some(self.by_id.get(id)?.news.clone())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ID: u128 = 7;

    fn id() -> String {
        uuid::Uuid::from_u128(ID).to_string()
    }

    fn known(sales: &Sales) -> SaleNews {
        let wanted = Wanted::Only(BTreeSet::from([uuid::Uuid::from_u128(ID).into()]));
        sales.known(&wanted).pop().unwrap()
    }

    #[test]
    fn what_is_known_in_the_end_does_not_depend_on_the_order_of_the_news() {
        let scheduled = EventScheduled { event_id: id(), version: 1, name: "old".to_owned(), ..Default::default() };
        let open = EventOpen { event_id: id(), version: 2, name: "new".to_owned(), ..Default::default() };
        let sold_out = EventSoldOut { event_id: id(), version: 3, kind: "FINAL".to_owned(), ..Default::default() };
        let closed = EventClosed { event_id: id(), version: 4, ..Default::default() };
        let facts = [
            SaleFact::Scheduled(&scheduled),
            SaleFact::Open(&open),
            SaleFact::SoldOut(&sold_out),
            SaleFact::Closed(&closed),
        ];
        for first in 0..4 {
            for second in (0..4).filter(|second| *second != first) {
                let rest = (0..4).rev().filter(|place| ![first, second].contains(place));
                let mut sales = Sales::default();
                for place in [first, second].into_iter().chain(rest).chain(0..4) {
                    sales.hear(facts[place]);
                }
                let SaleNews { version, status, name, sold_out, .. } = known(&sales);
                assert_eq!((version, status, name.as_str()), (4, SaleStatus::Closed, "new"), "{first} {second}");
                assert_eq!(sold_out.as_deref(), Some("FINAL"), "{first} {second}");
            }
        }
    }

    #[test]
    fn a_sale_that_begins_again_is_not_sold_out() {
        let sold_out = EventSoldOut { event_id: id(), version: 3, kind: "FINAL".to_owned(), ..Default::default() };
        let moved = EventScheduled { version: 4, sold_out: "FINAL".to_owned(), event_id: id(), ..Default::default() };
        let unsaid = EventScheduled { version: 5, event_id: id(), ..Default::default() };
        let again = EventScheduled { version: 6, sold_out: NOT_SOLD_OUT.to_owned(), ..unsaid.clone() };
        let mut sales = Sales::default();
        sales.hear(SaleFact::SoldOut(&sold_out));
        sales.hear(SaleFact::Scheduled(&moved));
        sales.hear(SaleFact::Scheduled(&unsaid));
        assert_eq!(known(&sales).sold_out.as_deref(), Some("FINAL"));
        sales.hear(SaleFact::Scheduled(&again));
        sales.hear(SaleFact::SoldOut(&sold_out));
        let SaleNews { sold_out, held, .. } = known(&sales);
        assert_eq!((sold_out, held), (None, None));
    }

    #[test]
    fn repeats_and_older_news_are_no_news() {
        let scheduled = |version| EventScheduled { event_id: id(), version, ..Default::default() };
        let open = EventOpen { event_id: id(), version: 2, ..Default::default() };
        let mut sales = Sales::default();
        assert!(sales.hear(SaleFact::Scheduled(&scheduled(1))).is_some());
        assert!(sales.hear(SaleFact::Open(&open)).is_some());
        assert!(sales.hear(SaleFact::Open(&open)).is_none());
        assert!(sales.hear(SaleFact::Scheduled(&scheduled(1))).is_none());
        assert!(sales.hear(SaleFact::Scheduled(&scheduled(3))).is_some(), "it was changed while it is open");
        assert_eq!(known(&sales).status, SaleStatus::Open);
        let nameless = EventOpen { event_id: "x".to_owned(), version: 9, ..Default::default() };
        assert!(sales.hear(SaleFact::Open(&nameless)).is_none());
    }

    #[test]
    fn those_that_are_over_are_not_among_all_and_are_forgotten_first() {
        let mut sales = Sales::default();
        for number in 0..SALES_MAX as u128 {
            let event_id = uuid::Uuid::from_u128(number).to_string();
            sales.hear(SaleFact::Scheduled(&EventScheduled { event_id, version: 1, ..Default::default() }));
        }
        sales.hear(SaleFact::Closed(&EventClosed { event_id: id(), version: 2, ..Default::default() }));
        assert_eq!(sales.known(&Wanted::All).len(), SALES_MAX - 1);
        assert_eq!(known(&sales).status, SaleStatus::Closed);
        let event_id = uuid::Uuid::from_u128(u128::MAX).to_string();
        sales.hear(SaleFact::Scheduled(&EventScheduled { event_id, version: 1, ..Default::default() }));
        assert_eq!(sales.known(&Wanted::All).len(), SALES_MAX);
        assert!(sales.known(&Wanted::Only(BTreeSet::from([uuid::Uuid::from_u128(ID).into()]))).is_empty());
    }
}
