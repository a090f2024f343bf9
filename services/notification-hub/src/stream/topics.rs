//! Topics: what a client wants to be told, and whether a fact is part of it.

use std::collections::BTreeSet;

use common::error::UNAUTHORIZED;
use common::id::Kind;
use common::{Id, Refused};
use contract::ids::{OrderId, SaleEventId};

/// Topics of one stream at the most.
pub const TOPICS_MAX: usize = 20;

/// What a fact is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// A sale event: for everybody.
    Sale(SaleEventId),
    /// An order, or a payment of it: for its owner.
    Order(OrderId),
    /// A coupon of an account.
    Coupon,
}

/// All things of a kind, or those that are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted<T> {
    All,
    Only(BTreeSet<T>),
}

impl<K: Kind> Wanted<Id<K>> {
    pub fn has(&self, id: Id<K>) -> bool {
        match self {
            Wanted::All => true,
            Wanted::Only(ids) => ids.contains(&id),
        }
    }

    /// Those that are named.
    pub fn named(&self) -> impl Iterator<Item = Id<K>> {
        let named = match self {
            Wanted::All => None,
            Wanted::Only(ids) => Some(ids.iter().copied()),
        };
        named.into_iter().flatten()
    }

    fn name(&mut self, id: Id<K>) {
        if let Wanted::Only(ids) = self {
            ids.insert(id);
        }
    }
}

/// What one client wants to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    pub sales: Wanted<SaleEventId>,
    /// Of its own account.
    pub orders: Wanted<OrderId>,
    /// Of its own account.
    pub coupons: bool,
}

impl Topics {
    /// Reads `events,order:{id},…`. Without topics it is everything that the caller may have.
    pub fn parse(text: Option<&str>, is_known: bool) -> Result<Topics, Refused> {
        let none = || Wanted::Only(BTreeSet::new());
        let Some(text) = text else {
            let orders = if is_known { Wanted::All } else { none() };
            return Ok(Topics { sales: Wanted::All, orders, coupons: is_known });
        };
        let names: Vec<&str> = text.split(',').collect();
        if names.len() > TOPICS_MAX {
            return Err(Refused::invalid("topics", format!("At most {TOPICS_MAX}.")));
        }
        let mut topics = Topics { sales: Wanted::Only(BTreeSet::new()), orders: none(), coupons: false };
        for name in names {
            topics.add(name)?;
        }
        if !is_known && (topics.coupons || topics.orders != none()) {
            let message = "Topics of your own (orders, coupons) need an access token.";
            return Err(Refused::new(UNAUTHORIZED, message));
        }
        Ok(topics)
    }

    fn add(&mut self, name: &str) -> Result<(), Refused> {
        match name.split_once(':') {
            None if name == "events" => self.sales = Wanted::All,
            None if name == "orders" => self.orders = Wanted::All,
            None if name == "coupons" => self.coupons = true,
            Some(("event", id)) => self.sales.name(parse(id)?),
            Some(("order", id)) => self.orders.name(parse(id)?),
            Some(("queue", _)) => {
                let message = "A place in a waiting room has a stream of its own: \
                               GET /queues/{eventId}/tickets/{ticketId}/stream.";
                return Err(Refused::invalid("topics", message));
            }
            _ => {
                let message =
                    "Topics are events, event:{eventId}, orders, order:{orderId} and coupons, with commas between.";
                return Err(Refused::invalid("topics", message));
            }
        }
        Ok(())
    }

    pub fn have(&self, about: About) -> bool {
        match about {
            About::Sale(sale) => self.sales.has(sale),
            About::Order(order) => self.orders.has(order),
            About::Coupon => self.coupons,
        }
    }
}

fn parse<K: Kind>(id: &str) -> Result<Id<K>, Refused> {
    id.parse().map_err(|error: common::id::NotAnId| Refused::invalid("topics", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> uuid::Uuid {
        uuid::Uuid::from_u128(number)
    }

    #[test]
    fn without_topics_a_client_gets_all_that_it_may_have() {
        let own = Topics::parse(None, true).unwrap();
        let anyone = Topics::parse(None, false).unwrap();
        for (about, is_own) in
            [(About::Sale(id(1).into()), false), (About::Order(id(1).into()), true), (About::Coupon, true)]
        {
            assert!(own.have(about), "{about:?}");
            assert_eq!(anyone.have(about), !is_own, "{about:?}");
        }
    }

    #[test]
    fn named_topics_are_all_that_it_gets() {
        let topics = Topics::parse(Some(&format!("event:{},order:{}", id(1), id(2))), true).unwrap();
        assert!(topics.have(About::Sale(id(1).into())) && topics.have(About::Order(id(2).into())));
        let others = [About::Sale(id(2).into()), About::Order(id(1).into()), About::Coupon];
        assert!(!others.into_iter().any(|about| topics.have(about)));
        // The wider one of two holds, whichever comes first.
        for text in [format!("events,event:{}", id(1)), format!("event:{},events", id(1))] {
            assert!(Topics::parse(Some(&text), false).unwrap().have(About::Sale(id(7).into())), "{text}");
        }
    }

    #[test]
    fn topics_that_do_not_exist_and_those_of_others_are_refused() {
        let long = vec!["events"; TOPICS_MAX + 1].join(",");
        for text in
            ["", ",", "events,", "Events", "event:", "event:7", "order:x", "product:1", "inbox", "queue:1", &long]
        {
            let refused = Topics::parse(Some(text), true).unwrap_err();
            assert_eq!((refused.code.http, &refused.details[0]["field"]), (400, &"topics".into()), "{text:?}");
        }
        for text in ["orders", "coupons", &format!("order:{}", id(1))] {
            assert_eq!(Topics::parse(Some(text), false).unwrap_err().code.http, 401, "{text:?}");
        }
    }
}
