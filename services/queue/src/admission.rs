//! Rules of admission: how far ahead people must show that they are here, how many passes the stock bears, and when a sale is
//! sold out.

use crate::names::{Mode, SoldOut};

/// Numbers that must be present at least, however slow the room is.
const WINDOW_MIN: i64 = 100;

/// Numbers behind the front whose holders must show that they are here: three times what is admitted while somebody counts as
/// present. So whoever is asked to has the time to, and two of three may be absent without the line having to wait.
pub fn window(rate_per_minute: i32, alive_ms: i64) -> i64 {
    let admitted = i64::from(rate_per_minute) * alive_ms / 60_000;
    (3 * admitted).max(WINDOW_MIN)
}

/// What is left of the products of a sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    pub on_hand: i64,
    /// On hand and not held.
    pub available: i64,
}

impl Stock {
    pub fn held(self) -> i64 {
        self.on_hand - self.available
    }

    pub fn and(self, other: Stock) -> Stock {
        Stock { on_hand: self.on_hand + other.on_hand, available: self.available + other.available }
    }

    /// Held units may come back, sold ones do not.
    pub fn sold_out(self) -> Option<SoldOut> {
        match self {
            Stock { available: 1.., .. } => None,
            Stock { on_hand: 1.., .. } => Some(SoldOut::Tentative),
            Stock { .. } => Some(SoldOut::Final),
        }
    }

    /// Passes and offers that there may be at a time: more than units, because not everybody buys.
    pub fn passes(self, per_100_units: i64) -> i64 {
        (self.available.max(0) * per_100_units + 99) / 100
    }
}

/// What a sale that was `before` becomes when the stock is looked at. The line ends with the last unit: only a restock, which
/// is told by `STOCK_REPLENISHED`, begins another.
pub fn next_sold_out(before: Option<SoldOut>, stock: Stock) -> Option<SoldOut> {
    match before {
        Some(SoldOut::Final) => Some(SoldOut::Final),
        _ => stock.sold_out(),
    }
}

/// The room's state in Redis.
pub fn room_state(mode: Mode, sold_out: Option<SoldOut>, is_open: bool) -> &'static str {
    match (is_open, sold_out, mode) {
        (false, ..) => "closed",
        (_, Some(SoldOut::Final), _) => "final",
        (_, _, Mode::Running) => "open",
        (_, _, Mode::Paused) => "paused",
        (_, _, Mode::Draining) => "draining",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn held_units_may_come_back_and_sold_ones_do_not() {
        let stock = |on_hand, available| Stock { on_hand, available };
        assert_eq!(stock(5, 1).sold_out(), None);
        assert_eq!(stock(5, 0).sold_out(), Some(SoldOut::Tentative));
        assert_eq!(stock(0, 0).sold_out(), Some(SoldOut::Final));
        assert_eq!(next_sold_out(Some(SoldOut::Tentative), stock(5, 2)), None, "a hold has lapsed");
        assert_eq!(next_sold_out(Some(SoldOut::Final), stock(5, 5)), Some(SoldOut::Final), "that is a restock");
        assert_eq!(next_sold_out(Some(SoldOut::Tentative), stock(0, 0)), Some(SoldOut::Final));
    }

    #[test]
    fn a_closed_sale_stays_closed_and_a_sold_one_is_not_paused() {
        assert_eq!(room_state(Mode::Running, Some(SoldOut::Final), false), "closed");
        assert_eq!(room_state(Mode::Paused, Some(SoldOut::Final), true), "final");
        assert_eq!(room_state(Mode::Running, Some(SoldOut::Tentative), true), "open", "the stock alone stops it");
        assert_eq!(room_state(Mode::Draining, None, true), "draining");
    }

    proptest! {
        #![proptest_config(testkit::properties::quick(256))]

        /// Whoever comes into the window has three times as long as presence lasts before the front is there.
        #[test]
        fn everybody_in_the_window_has_time_to_show_up(rate in 1..1_000_000_i32, alive_ms in 1_000..120_000_i64) {
            let window = window(rate, alive_ms);
            prop_assert!(window >= WINDOW_MIN);
            prop_assert!((window + 3) * 60_000 >= 3 * alive_ms * i64::from(rate));
        }

        #[test]
        fn each_unit_has_its_pass_and_none_has_one_when_nothing_is_left(available in 0..1_000_000_i64, per in 100..1_000_i64) {
            let passes = Stock { on_hand: available, available }.passes(per);
            prop_assert!(passes >= available);
            prop_assert_eq!(passes == 0, available == 0);
        }
    }
}
