//! Rules of stock: which requests get units, when a product sells out, and when it is back.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use contract::ids::{AccountId, HoldId, ProductId};

use crate::hold::{Hold, HoldLine, HoldState, check_repeat};
use crate::refused::{Refused, Shortage};

/// Units of one product. More are a typing error, and the sums in Lua stay exact.
pub const ON_HAND_MAX: i64 = 1_000_000_000;

/// The lines of a hold to be made, all or none. [`Wanted::new`] has put them in product order, each product once.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub hold: HoldId,
    pub user: AccountId,
    pub lines: Vec<WantedLine>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedLine {
    pub product: ProductId,
    pub quantity: i32,
}

impl Wanted {
    /// Refuses with `VALIDATION_ERROR`.
    pub fn new(
        hold: HoldId,
        user: AccountId,
        mut lines: Vec<WantedLine>,
        lines_max: usize,
        quantity_max: i32,
    ) -> Result<Wanted, common::Refused> {
        if lines.is_empty() || lines.len() > lines_max {
            return Err(common::Refused::invalid("lines", format!("must have 1 to {lines_max} lines")));
        }
        if let Some(index) = lines.iter().position(|line| !(1..=quantity_max).contains(&line.quantity)) {
            let field = format!("lines[{index}].quantity");
            return Err(common::Refused::invalid(&field, format!("must be 1 to {quantity_max}")));
        }
        // The order in which stock is locked.
        lines.sort_by_key(|line| line.product);
        if lines.windows(2).any(|pair| pair[0].product == pair[1].product) {
            return Err(common::Refused::invalid("lines", "must name each product once"));
        }
        Ok(Wanted { hold, user, lines })
    }
}

/// A row of stock with its product.
#[derive(Debug, Clone)]
pub struct Stock {
    pub on_hand: i64,
    pub held: i64,
    pub version: i64,
    pub max_per_user: Option<i32>,
    pub unit_price: i64,
    pub currency: String,
    pub sku: String,
    pub name: String,
}

impl Stock {
    /// Units that may be held now.
    pub fn sellable(&self) -> i64 {
        self.on_hand - self.held
    }

    /// [`Stock::sellable`] after `moves`, if this is the stock of `product`.
    pub fn sellable_after(&self, moves: &Moves, product: ProductId) -> i64 {
        self.sellable() + moves.get(&product).map_or(0, Move::sellable)
    }
}

/// What becomes of one request of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Create,
    /// There was a hold of this id before the batch.
    Exists,
    /// An earlier request of the batch creates the hold of this id.
    Duplicate,
}

/// What a batch decides by: all of it read after the rows of `stocks` were locked.
#[derive(Debug, Default)]
pub struct Facts {
    pub stocks: BTreeMap<ProductId, Stock>,
    /// Units that this transaction has taken over from expired holds; `stocks` still counts them as held.
    pub freed: Moves,
    pub holds: HashMap<HoldId, Hold>,
    /// Units that a user holds or has bought, for products with a limit.
    pub owned: HashMap<(AccountId, ProductId), i64>,
}

/// Serves `requests` in the order of their arrival, each wholly or not at all. Never gives more units than are sellable.
pub fn decide(requests: &[Wanted], facts: &Facts, now: DateTime<Utc>) -> Vec<Result<Decision, Refused>> {
    let sellable = |(id, stock): (&ProductId, &Stock)| (*id, stock.sellable_after(&facts.freed, *id));
    let mut left: HashMap<ProductId, i64> = facts.stocks.iter().map(sellable).collect();
    let mut owned = facts.owned.clone();
    let mut created: HashSet<HoldId> = HashSet::new();
    let mut outcomes = Vec::with_capacity(requests.len());
    for wanted in requests {
        let outcome = if created.contains(&wanted.hold) {
            Ok(Decision::Duplicate)
        } else if let Some(hold) = facts.holds.get(&wanted.hold) {
            check_repeat(hold, wanted.user, now).map(|()| Decision::Exists)
        } else {
            check_request(wanted, &facts.stocks, &left, &owned).map(|()| Decision::Create)
        };
        if outcome == Ok(Decision::Create) {
            created.insert(wanted.hold);
            for line in &wanted.lines {
                *left.entry(line.product).or_default() -= i64::from(line.quantity);
                *owned.entry((wanted.user, line.product)).or_default() += i64::from(line.quantity);
            }
        }
        outcomes.push(outcome);
    }
    // A refused buyer is told what is left after the batch, not in the middle of it.
    for outcome in &mut outcomes {
        if let Err(Refused::OutOfStock { shortages }) = outcome {
            for shortage in shortages {
                shortage.available = left.get(&shortage.product).copied().unwrap_or(0).max(0);
            }
        }
    }
    outcomes
}

fn check_request(
    wanted: &Wanted,
    stocks: &BTreeMap<ProductId, Stock>,
    left: &HashMap<ProductId, i64>,
    owned: &HashMap<(AccountId, ProductId), i64>,
) -> Result<(), Refused> {
    let mut shortages = Vec::new();
    for line in &wanted.lines {
        let product = line.product;
        let stock = stocks.get(&product).ok_or(Refused::ProductNotFound(product))?;
        let have = owned.get(&(wanted.user, product)).copied().unwrap_or(0);
        if let Some(max) = stock.max_per_user
            && have + i64::from(line.quantity) > i64::from(max)
        {
            return Err(Refused::LimitExceeded { product, requested: line.quantity, have, max });
        }
        let available = left.get(&product).copied().unwrap_or(0);
        if i64::from(line.quantity) > available {
            shortages.push(Shortage { product, requested: line.quantity, available });
        }
    }
    if shortages.is_empty() { Ok(()) } else { Err(Refused::OutOfStock { shortages }) }
}

/// The products that somebody was refused for want of units, in order.
pub fn short_products<T>(outcomes: &[Result<T, Refused>]) -> Vec<ProductId> {
    let shortages = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).flat_map(Refused::shortages);
    let short: BTreeSet<ProductId> = shortages.map(|shortage| shortage.product).collect();
    short.into_iter().collect()
}

/// The hold that a request creates, at the prices of now.
pub fn new_hold(wanted: &Wanted, stocks: &BTreeMap<ProductId, Stock>, expires_at: DateTime<Utc>) -> Hold {
    let line = |line: &WantedLine| {
        let stock = stocks.get(&line.product)?;
        Some(HoldLine {
            product: line.product,
            quantity: line.quantity,
            unit_price: stock.unit_price,
            currency: stock.currency.clone(),
            sku: stock.sku.clone(),
            name: stock.name.clone(),
        })
    };
    Hold {
        id: wanted.hold,
        user: Some(wanted.user),
        state: HoldState::Held,
        expires_at,
        pin: None,
        unpinned_by: Vec::new(),
        order_version: None,
        lines: wanted.lines.iter().filter_map(line).collect(),
    }
}

/// How many units a transaction adds to one row of stock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Move {
    pub on_hand: i64,
    pub held: i64,
    /// Units that an adjustment or a return brought: only these can be a restock.
    pub restocked: i64,
}

impl Move {
    fn sellable(&self) -> i64 {
        self.on_hand - self.held
    }
}

/// The changes of all rows of one transaction, in product order.
pub type Moves = BTreeMap<ProductId, Move>;

/// Whether the sellable units of a product ran out or came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crossing {
    Depleted,
    /// A new restock round begins.
    Replenished,
    Nothing,
}

/// Units of an expired or released hold are not a restock.
pub fn crossing(sellable_before: i64, change: Move) -> Crossing {
    let sellable_after = sellable_before + change.sellable();
    if sellable_before > 0 && sellable_after <= 0 {
        Crossing::Depleted
    } else if sellable_before <= 0 && sellable_after > 0 && change.restocked > 0 {
        Crossing::Replenished
    } else {
        Crossing::Nothing
    }
}

/// The units on hand after an adjustment. Refuses with `STOCK_BELOW_HELD` and `VALIDATION_ERROR`.
pub fn adjusted(on_hand: i64, held: i64, delta: i64) -> Result<i64, common::Error> {
    let after = on_hand + delta;
    if after < held {
        return Err(Refused::BelowHeld { on_hand, held, delta }.into());
    }
    if after > ON_HAND_MAX {
        return Err(common::Refused::invalid("delta", format!("a stock may have {ON_HAND_MAX} units at most")).into());
    }
    Ok(after)
}

#[cfg(test)]
mod tests;
