//! The process dies while it deals with money that came too late, or that nobody wants any more.

use sandbox::Outside;
use serde_json::json;

use crate::client::fresh_key;
use crate::crash_points::each;
use crate::ledger::Units;
use crate::pay_late::{SHORT_LIVED, capture, gives_up};
use crate::payer::misbehaves;
use crate::site::{TestSite, eventually};

pub const LATE: [&str; 3] = ["payment.after_retake:1", "payment.after_late_promise:1", "mark_paid.after_commit:1"];
pub const UNDOING: [&str; 2] = ["payment.before_undo:1", "payment.after_undo:1"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dying_over_money_that_came_too_late_pays_the_order_once_or_gives_it_back() {
    each(&LATE, die_over_late_money).await;
}

async fn die_over_late_money(point: &'static str) {
    let settings = [&SHORT_LIVED[..], &[("host.crash_point", point), ("postgres.connections_max", "3")]].concat();
    let site = TestSite::spawn(&settings).await;
    println!("{point}: {}", site.log().display());
    let (scarce, plenty) = (site.product_at(1, 19_995).await, site.product_at(9, 29_995).await);
    let (buyer, admin) = (site.buyer().await, site.admin());
    let lost = gives_up(&site, &buyer, &scarce).await;
    let lucky = gives_up(&site, &buyer, &plenty).await;
    // The scarce unit has gone elsewhere meanwhile.
    admin.adjust(&fresh_key(), &scarce, -1).await.expect(200);
    for agreed in [&lost, &lucky] {
        capture(&site, &agreed.pg_payment).await;
    }
    let sync = async || {
        for agreed in [&lost, &lucky] {
            let path = format!("/admin/payments/{}/sync", agreed.payment);
            // It may be dead already.
            drop(admin.try_send(admin.request(reqwest::Method::POST, &path).json(&json!({}))).await);
        }
    };
    sync().await;
    eventually(&format!("{point} is passed"), async || site.is_dead().await.then_some(())).await;
    site.revive(&[("host.crash_point", "")]).await;
    sync().await;
    buyer.sees_payment(&lucky.payment, "PAID").await;
    buyer.sees_order(&lucky.order, "PAID").await;
    buyer.sees_payment(&lost.payment, "REFUNDED").await;
    buyer.sees_order(&lost.order, "EXPIRED").await;
    site.assert_consistent().await;
    assert_eq!(site.kept_by_provider(&lost.payment).await, 0, "{point}");
    assert_eq!(site.kept_by_provider(&lucky.payment).await, lucky.amount, "{point}");
    assert_eq!(site.units(&plenty).await, Units { on_hand: 8, held: 0 }, "{point}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dying_while_an_approval_is_undone_leaves_neither_money_nor_unit_behind() {
    each(&UNDOING, die_while_undoing).await;
}

async fn die_while_undoing(point: &'static str) {
    let outside = Outside::start().await.expect("the provider starts");
    let settings = [
        ("payment.naverpay.url", outside.url()),
        ("payment.approve_wait_ms", "1000"),
        ("payment.patience.undo_after_seconds", "8"),
        ("inventory.hold_ttl_seconds", "6"),
        ("postgres.connections_max", "3"),
        ("host.crash_point", point),
    ];
    let site = TestSite::spawn(&settings).await;
    println!("{point}: {}", site.log().display());
    let (product, buyer) = (site.product_at(1, 10_000).await, site.buyer().await);
    let agreed = buyer.agrees(&site, &product).await;
    misbehaves(&outside, &json!({ "lostAfter": 1.0, "lostQuery": 1.0 })).await;
    buyer.approve(&agreed).await.expect(202);
    eventually(&format!("{point} is passed"), async || site.is_dead().await.then_some(())).await;
    site.revive(&[("host.crash_point", "")]).await;
    // It goes on although nobody has asked the provider to talk yet.
    eventually("the money has gone back", async || (site.kept_by_provider(&agreed.payment).await == 0).then_some(()))
        .await;
    misbehaves(&outside, &json!({})).await;
    site.admin().post(&format!("/admin/payments/{}/sync", agreed.payment), &json!({})).await.expect(202);
    buyer.sees_payment(&agreed.payment, "FAILED").await;
    buyer.sees_order(&agreed.order, "EXPIRED").await;
    eventually("its unit is on sale", async || {
        (site.units(&product).await == Units { on_hand: 1, held: 0 }).then_some(())
    })
    .await;
    site.assert_consistent().await;
    assert_eq!(site.kept_by_provider(&agreed.payment).await, 0, "{point}");
    site.stop().await;
    outside.stop().await.expect("the provider ends");
}
