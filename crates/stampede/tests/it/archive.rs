//! Orders of all ends move to the archive of a whole system. For everybody they stay what they are, and every invariant holds.

use serde_json::{Value, json};
use testkit::{Client, Site, eventually, fresh_key, text};

use crate::ledger::Ledger as _;
use crate::payer::Payer as _;
use crate::site::system;

pub const RUNS: &str = "/admin/archive/runs";

/// As if no order had changed for a hundred days.
pub async fn grow_old(site: &Site) {
    site.execute("update {order}.orders set updated_at = now() - interval '100 days'").await;
}

/// Waits until the newest run has ended, and returns it.
pub async fn newest_run(site: &Site) -> Value {
    eventually("the run of the archive ends", async || {
        let runs = site.admin().get(RUNS).await.expect(200).json();
        let run = runs["items"][0].clone();
        (!["REQUESTED", "RUNNING"].contains(&run["status"].as_str()?)).then_some(run)
    })
    .await
}

async fn read(buyer: &Client, order: &str) -> Value {
    buyer.get(&format!("/orders/{order}")).await.expect(200).json()
}

#[tokio::test(flavor = "multi_thread")]
async fn archived_orders_stay_what_they_are_and_every_invariant_holds() {
    let site = system().settings(&[("order.expire_sweep_ms", "50")]).start().await;
    let (product, buyer) = (site.product(9).await, site.buyer().await);
    let keys: [String; 5] = std::array::from_fn(|_| fresh_key());
    let (mut placed, mut ids) = (Vec::new(), Vec::new());
    for key in &keys {
        let answer = buyer.order(key, &product, 1).await.expect(201);
        ids.push(text(&answer.json()["orderId"]));
        placed.push(answer.body);
    }
    let [open, cancelled, expired, paid, refunded] = &ids[..] else { panic!("five were placed") };
    for order in [paid, refunded] {
        let agreed = buyer.agrees_to(&site, order, 129_000).await;
        buyer.approve(&agreed).await.expect(200);
    }
    let cancel = async |order: &str| buyer.post(&format!("/orders/{order}/cancel"), &json!({})).await;
    site.settled().await;
    cancel(cancelled).await.expect(200);
    cancel(refunded).await.expect(202);
    site.time_is_up(expired).await;
    let becomes = async |order: &String, status: &str| {
        eventually(&format!("{order} is {status}"), async || {
            (read(&buyer, order).await["status"] == status).then_some(())
        })
        .await;
    };
    becomes(refunded, "REFUNDED").await;
    let stored = format!("select count(*) from {{order}}.orders where id = '{expired}' and status = 'EXPIRED'");
    site.until_number(&stored, 1).await;
    site.assert_consistent().await;

    grow_old(&site).await;
    site.admin().post(RUNS, &json!({})).await.expect(202);
    let run = newest_run(&site).await;
    assert_eq!((&run["status"], &run["orders"]), (&json!("COMPLETED"), &json!(4)), "{run}");
    site.assert_consistent().await;
    for order in &ids {
        assert_eq!(read(&buyer, order).await["archived"] == true, order != open, "{order}");
    }
    for (key, first) in keys.iter().zip(&placed) {
        let again = buyer.order(key, &product, 1).await.expect(201);
        assert_eq!((&again.body, again.is_replay()), (first, true), "its first answer, for ever");
    }

    // The buyer of a paid order changes their mind after all.
    cancel(paid).await.expect(202);
    becomes(paid, "REFUNDED").await;
    assert_eq!(read(&buyer, paid).await.get("archived"), None);
    cancel(expired).await.refused(409, "ORDER_NOT_CANCELLABLE");
    site.assert_consistent().await;
    grow_old(&site).await;
    site.admin().post(RUNS, &json!({})).await.expect(202);
    assert_eq!(newest_run(&site).await["orders"], 2, "both go back");
    site.assert_consistent().await;
}
