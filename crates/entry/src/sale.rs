//! Rules of sales: what a product's sale events let a buyer do at a moment.

use chrono::{DateTime, Utc};
use common::{Code, Refusal};
use contract::codes;
use contract::ids::{ProductId, SaleEventId};

use crate::schema::sale_events;
use crate::waiting_room::Policy;

/// A sale event, as the queue last told it.
#[derive(Debug, Clone, PartialEq, diesel::Queryable, diesel::Selectable, diesel::Insertable, diesel::AsChangeset)]
// An end that is taken back is stored as none.
#[diesel(table_name = sale_events, treat_none_as_null = true)]
pub struct Sale {
    pub event_id: SaleEventId,
    pub version: i64,
    pub opens_at: DateTime<Utc>,
    pub closes_at: Option<DateTime<Utc>>,
    pub closed: bool,
    pub product_ids: Vec<ProductId>,
    pub queue_manage_required: bool,
    pub verify_offline: bool,
    pub closed_on_outage: bool,
    pub rate_per_minute: i64,
    pub pass_key: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SaleRefusal {
    #[error("Sale event {0} has not begun.")]
    NotOpen(SaleEventId),
    #[error("Sale event {0} has ended.")]
    Closed(SaleEventId),
}

impl SaleRefusal {
    pub fn event(&self) -> SaleEventId {
        let (SaleRefusal::NotOpen(event) | SaleRefusal::Closed(event)) = self;
        *event
    }
}

impl Refusal for SaleRefusal {
    fn code(&self) -> Code {
        match self {
            SaleRefusal::NotOpen(_) => codes::EVENT_NOT_OPEN,
            SaleRefusal::Closed(_) => codes::EVENT_CLOSED,
        }
    }
}

impl Sale {
    pub fn policy(&self) -> Policy {
        Policy {
            required: self.queue_manage_required,
            verify_offline: self.verify_offline,
            closed_on_outage: self.closed_on_outage,
        }
    }

    fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.closed || self.closes_at.is_some_and(|at| at <= now)
    }
}

/// Which products need a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassRule {
    /// Those whose sale event has a waiting room.
    AsSalesSay,
    /// All: a sale event without a waiting room does not count. So nobody comes in before the one that has it is known here.
    Always,
}

/// The sale that whoever wants `product` comes to. None: there is none that counts.
///
/// Of several, one that is open counts, and of those one that needs no pass.
pub fn sale_of(
    sales: &[Sale],
    product: ProductId,
    rule: PassRule,
    now: DateTime<Utc>,
) -> Result<Option<&Sale>, SaleRefusal> {
    // A closed sale is told without its rules.
    let counts = move |sale: &Sale| rule == PassRule::AsSalesSay || sale.queue_manage_required || sale.closed;
    let own = || sales.iter().filter(move |sale| sale.product_ids.contains(&product) && counts(sale));
    let open = || own().filter(|sale| !sale.is_over(now) && sale.opens_at <= now);
    if let Some(sale) = open().min_by_key(|sale| (sale.queue_manage_required, sale.event_id)) {
        return Ok(Some(sale));
    }
    if let Some(ahead) = own().filter(|sale| !sale.is_over(now)).min_by_key(|sale| sale.opens_at) {
        return Err(SaleRefusal::NotOpen(ahead.event_id));
    }
    match own().next() {
        Some(over) => Err(SaleRefusal::Closed(over.event_id)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    fn product() -> ProductId {
        ProductId::derive(&[b"sneaker"])
    }

    fn sale(name: &[u8], opens: i64, closes: Option<i64>) -> Sale {
        Sale {
            event_id: SaleEventId::derive(&[name]),
            version: 1,
            opens_at: at(opens),
            closes_at: closes.map(at),
            closed: false,
            product_ids: vec![product()],
            queue_manage_required: true,
            verify_offline: false,
            closed_on_outage: false,
            rate_per_minute: 60,
            pass_key: String::new(),
        }
    }

    #[test]
    fn a_product_of_no_sale_is_sold_at_any_time() {
        assert_eq!(sale_of(&[], product(), PassRule::AsSalesSay, at(0)), Ok(None));
        let other = Sale { product_ids: vec![ProductId::derive(&[b"other"])], ..sale(b"a", 10, None) };
        assert_eq!(sale_of(&[other], product(), PassRule::AsSalesSay, at(0)), Ok(None));
    }

    #[test]
    fn a_product_is_sold_while_its_sale_is_open() {
        let sales = [sale(b"a", 10, Some(20))];
        let id = sales[0].event_id;
        assert_eq!(sale_of(&sales, product(), PassRule::AsSalesSay, at(9)), Err(SaleRefusal::NotOpen(id)));
        assert_eq!(sale_of(&sales, product(), PassRule::AsSalesSay, at(10)), Ok(Some(&sales[0])));
        assert_eq!(sale_of(&sales, product(), PassRule::AsSalesSay, at(20)), Err(SaleRefusal::Closed(id)));
        let closed = [Sale { closed: true, ..sales[0].clone() }];
        assert_eq!(sale_of(&closed, product(), PassRule::AsSalesSay, at(15)), Err(SaleRefusal::Closed(id)));
    }

    #[test]
    fn of_several_sales_the_open_one_counts() {
        let (over, open, ahead) = (sale(b"a", 0, Some(5)), sale(b"b", 6, None), sale(b"c", 90, None));
        let sales = [over.clone(), open.clone(), ahead.clone()];
        assert_eq!(sale_of(&sales, product(), PassRule::AsSalesSay, at(10)), Ok(Some(&open)));
        assert_eq!(
            sale_of(&[over, ahead.clone()], product(), PassRule::AsSalesSay, at(10)),
            Err(SaleRefusal::NotOpen(ahead.event_id))
        );
        let free = Sale { queue_manage_required: false, ..sale(b"d", 7, None) };
        let sales = [open, free.clone()];
        assert_eq!(sale_of(&sales, product(), PassRule::AsSalesSay, at(10)), Ok(Some(&free)));
    }

    #[test]
    fn who_always_needs_a_pass_waits_for_a_sale_with_a_waiting_room() {
        let sold = |sales: &[Sale]| sale_of(sales, product(), PassRule::Always, at(10)).map(|sale| sale.cloned());
        let free = Sale { queue_manage_required: false, ..sale(b"a", 0, None) };
        assert_eq!(sold(&[]), Ok(None));
        assert_eq!(sold(std::slice::from_ref(&free)), Ok(None));
        let (open, ahead) = (sale(b"b", 1, None), sale(b"c", 20, None));
        assert_eq!(sold(&[free.clone(), ahead.clone()]), Err(SaleRefusal::NotOpen(ahead.event_id)));
        assert_eq!(sold(&[free.clone(), ahead, open.clone()]), Ok(Some(open)));
        let closed = Sale { closed: true, ..free };
        assert_eq!(sold(std::slice::from_ref(&closed)), Err(SaleRefusal::Closed(closed.event_id)));
    }
}
