//! Feeds the gate from inventory's `WatchStock`, for as long as a round of the product runs here.

use std::convert::Infallible;
use std::time::Duration;

use common::Result;
use common::backoff::Backoff;
use contract::ids::ProductId;

use crate::App;

/// Inventory reads the stock once a second itself, so a stream that says nothing is no stream that hangs.
const RECONNECT: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1) };

/// Ends only with the round. While inventory is away, `STOCK_DEPLETED` ends the round: it is late, and not lost.
pub async fn follow_stock(app: &App, product: ProductId) -> Infallible {
    let mut failures = 0;
    loop {
        match follow(app, product).await {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                tracing::debug!(product.id = %product, %error, "The stock of a product with a restock round cannot be watched");
            }
        }
        tokio::time::sleep(RECONNECT.delay(failures + 1)).await;
    }
}

async fn follow(app: &App, product: ProductId) -> Result<()> {
    let mut levels = app.restock.stocks.watch(product, app.restock.gate.version(product)).await?;
    while let Some(answer) = levels.message().await? {
        if let Some(level) = answer.stock {
            app.restock.gate.observe(product, level.version, level.available);
            app.db.point("restock.after_observe").await;
        }
    }
    Ok(())
}
