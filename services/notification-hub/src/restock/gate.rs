//! Rules of the gate: the stock of the products whose rounds run in this process, in memory. Whoever sends looks here
//! before each message and asks nobody.

use std::collections::HashMap;
use std::sync::Arc;

use contract::ids::ProductId;
use parking_lot::Mutex;

use crate::restock::round::is_sold_out;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct StockGate(Arc<Mutex<HashMap<ProductId, Watched>>>);

#[derive(Debug, Default)]
struct Watched {
    version: i64,
    available: i64,
    watchers: u32,
}

/// While it lives, the gate remembers the stock of a product.
pub struct Watch {
    gate: StockGate,
    product: ProductId,
}

impl StockGate {
    pub fn watch(&self, product: ProductId) -> Watch {
        self.0.lock().entry(product).or_default().watchers += 1;
        Watch { gate: self.clone(), product }
    }

    /// Takes a level that somebody has told. The newest version counts, in whichever order they come.
    pub fn observe(&self, product: ProductId, version: i64, available: i64) {
        if let Some(watched) = self.0.lock().get_mut(&product).filter(|watched| watched.version < version) {
            (watched.version, watched.available) = (version, available);
        }
    }

    /// Whether the newest level ends a round that began with the stock at `stock_version`.
    pub fn is_sold_out(&self, product: ProductId, stock_version: i64) -> bool {
        let watched = self.0.lock();
        watched.get(&product).is_some_and(|level| is_sold_out(stock_version, level.version, level.available))
    }

    /// The newest version that is known; 0: none.
    pub fn version(&self, product: ProductId) -> i64 {
        self.0.lock().get(&product).map_or(0, |watched| watched.version)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.gate.0.lock();
        if let Some(entry) = watched.get_mut(&self.product) {
            entry.watchers -= 1;
            if entry.watchers == 0 {
                watched.remove(&self.product);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_level_counts_in_whichever_order_they_are_told() {
        let (gate, product) = (StockGate::default(), ProductId::derive(&[b"sneaker"]));
        let _watch = gate.watch(product);
        assert!(!gate.is_sold_out(product, 10), "nothing is known");
        gate.observe(product, 12, 0);
        gate.observe(product, 11, 5);
        assert!(gate.is_sold_out(product, 10), "an older level opens nothing");
        assert!(!gate.is_sold_out(product, 12), "a round that began later is not ended by it");
        gate.observe(product, 13, 4);
        assert!(!gate.is_sold_out(product, 10));
        assert_eq!(gate.version(product), 13);
    }

    #[test]
    fn only_what_is_watched_is_remembered() {
        let (gate, product) = (StockGate::default(), ProductId::derive(&[b"sneaker"]));
        gate.observe(product, 12, 0);
        assert!(!gate.is_sold_out(product, 10));
        let (first, second) = (gate.watch(product), gate.watch(product));
        gate.observe(product, 12, 0);
        drop(first);
        assert!(gate.is_sold_out(product, 10), "another runner of this process still watches it");
        drop(second);
        assert!(gate.0.lock().is_empty());
    }
}
