//! The provider's book against our payments.

use client::text;
use futures_util::future::join_all;
use serde_json::{Value, json};
use testkit::eventually;
use uuid::Uuid;

use crate::shop::{AMOUNT, Shop};

const RUNS: &str = "/admin/reconciliation/runs";

/// A payment of 1,000 won whose current authorisation is `pg`, and that has long been at rest.
async fn insert_payment(shop: &Shop, id: Uuid, status: &str, pg: &str) -> String {
    let (order, attempt) = (Uuid::now_v7().to_string(), Uuid::now_v7());
    let captured = if ["PAID", "REFUNDED"].contains(&status) { AMOUNT } else { 0 };
    shop.site
        .execute(&format!(
            "insert into {{payment}}.payments
                 (id, order_id, user_id, method, amount, currency, idempotency_key, fingerprint, status, attempt_id,
                  pg_payment_id, captured, expires_at, approving_since, updated_at)
             values ('{id}', '{order}', '{attempt}', 'NAVERPAY', {AMOUNT}, 'KRW', '{id}', '', '{status}', '{attempt}',
                  '{pg}', {captured}, now() + interval '1 minute', now() - interval '1 hour', now() - interval '1 hour');
             insert into {{payment}}.payment_attempt (id, payment_id, pg_payment_id, idempotency_key, amount)
             values ('{attempt}', '{id}', '{pg}', '{attempt}', {AMOUNT})"
        ))
        .await;
    shop.upstreams.set_paid(&order, &id.to_string(), AMOUNT);
    order
}

/// Has everything up to now compared; the run as it ended.
///
/// The run is not requested over HTTP: the provider knows whole seconds only, and the last one would be left out.
async fn reconcile(shop: &Shop) -> Value {
    // The provider's times are whole seconds, and a run has an end: what it refunds itself comes after that.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let id = Uuid::now_v7();
    shop.site
        .execute(&format!(
            "insert into {{payment}}.reconciliation_runs (id, provider, from_time, to_time, requested_by)
             values ('{id}', 'naverpay', now() - interval '1 day', now(), '{id}')"
        ))
        .await;
    let run = ended(shop, &id.to_string()).await;
    assert_eq!(run["status"], "COMPLETED", "{run}");
    run
}

async fn ended(shop: &Shop, run: &str) -> Value {
    eventually("the run ends", async || {
        let run = shop.site.admin().get(&format!("{RUNS}/{run}")).await.expect(200).json();
        (!["REQUESTED", "RUNNING"].contains(&run["status"].as_str().unwrap())).then_some(run)
    })
    .await
}

/// (kind, our id of the payment, what was done), in alphabetical order.
fn findings(run: &Value) -> Vec<(String, String, String)> {
    let each = |finding: &Value| (text(&finding["kind"]), text(&finding["merchantPayKey"]), text(&finding["action"]));
    let mut findings: Vec<_> = run["findings"].as_array().unwrap().iter().map(each).collect();
    findings.sort();
    findings
}

#[tokio::test(flavor = "multi_thread")]
async fn every_difference_is_found_and_captures_without_a_payment_are_refunded() {
    let shop = Shop::start().await;
    let id = || Uuid::now_v7();
    let [right, twice, missing, amount, refunded, order, failed, open] =
        [id(), id(), id(), id(), id(), id(), id(), id()];
    for id in [right, twice, order] {
        let pg = shop.capture(&id.to_string(), AMOUNT).await;
        let its_order = insert_payment(&shop, id, "PAID", &pg).await;
        if id == order {
            shop.upstreams.set(&its_order, "EXPIRED");
        }
    }
    shop.capture(&twice.to_string(), AMOUNT).await;
    insert_payment(&shop, missing, "PAID", "P-none").await;
    let pg = shop.capture(&amount.to_string(), 900).await;
    insert_payment(&shop, amount, "PAID", &pg).await;
    let pg = shop.capture(&refunded.to_string(), AMOUNT).await;
    insert_payment(&shop, refunded, "PAID", &pg).await;
    shop.cancel_at_provider(&pg, 400).await;
    let pg = shop.capture(&failed.to_string(), AMOUNT).await;
    insert_payment(&shop, failed, "FAILED", &pg).await;
    let pg = shop.capture(&open.to_string(), AMOUNT).await;
    insert_payment(&shop, open, "NEEDS_REVIEW", &pg).await;
    shop.capture("somebody-elses-order", 5_000).await;

    let run = reconcile(&shop).await;
    let found = |kind: &str, name: &str, action: &str| (kind.to_owned(), name.to_owned(), action.to_owned());
    let lasting = [
        found("AMOUNT_MISMATCH", &amount.to_string(), "REPORTED"),
        found("MISSING_CAPTURE", &missing.to_string(), "REPORTED"),
        found("ORDER_MISMATCH", &order.to_string(), "REPORTED"),
        found("REFUND_MISMATCH", &refunded.to_string(), "REPORTED"),
    ];
    let mut expected = lasting.to_vec();
    expected.extend([
        found("DOUBLE_CAPTURE", &twice.to_string(), "CANCELLED"),
        found("STRAY_CAPTURE", &failed.to_string(), "ASKED"),
        found("STRAY_CAPTURE", "somebody-elses-order", "CANCELLED"),
    ]);
    expected.sort();
    assert_eq!(findings(&run), expected, "{run:#}");
    assert_eq!(run["captured"]["amount"], 12_900);
    assert_eq!(run["cancelled"]["amount"], 400);
    assert_eq!(run["paid"]["amount"], 6_000);
    // Captured twice 1,000; missing 1,000; 100 too little; 400 refunded; 1,000 unexpected; 5,000 of nobody.
    assert_eq!(run["difference"]["amount"], 1_000 - 1_000 - 100 - 400 + 1_000 + 5_000);

    shop.until_status(&failed.to_string(), "PAID").await;
    shop.site
        .until_number(&format!("select count(*) from {{payment}}.pending_steps where payment_id = '{failed}'"), 0)
        .await;
    let before = shop.net_at_provider().await;
    assert_eq!(before, 3 * 1_000 + 900 + 600 + 1_000 + 1_000, "only what belongs to a payment is left");

    assert_eq!(findings(&reconcile(&shop).await), lasting, "what was remedied is no finding any more");
    assert_eq!(shop.net_at_provider().await, before, "nothing is refunded twice");
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_for_operators_and_one_at_a_time() {
    let shop = Shop::start().await;
    let (admin, buyer, nothing) = (shop.site.admin(), shop.site.buyer().await, json!({}));
    buyer.post(RUNS, &nothing).await.refused(403, "FORBIDDEN");
    buyer.get(RUNS).await.refused(403, "FORBIDDEN");
    for body in [
        json!({ "from": "2026-01-01T00:00:00Z", "to": "2026-03-01T00:00:00Z" }),
        json!({ "from": "2999-01-01T00:00:00Z" }),
        json!({ "since": "2026-01-01T00:00:00Z" }),
    ] {
        admin.post(RUNS, &body).await.refused(400, "VALIDATION_ERROR");
    }
    admin.get(&format!("{RUNS}/{}", Uuid::now_v7())).await.refused(404, "NOT_FOUND");

    let mut runs = Vec::new();
    for _ in 0..2 {
        let requested = admin.post(RUNS, &nothing).await.expect(202).json();
        runs.push(ended(&shop, &text(&requested["runId"])).await);
    }
    assert_eq!((&runs[0]["status"], &runs[0]["findingsCount"]), (&json!("COMPLETED"), &json!(0)));
    let page = admin.get(&format!("{RUNS}?limit=1")).await.expect(200).json();
    assert_eq!(page["items"][0]["runId"], runs[1]["runId"]);
    let next = format!("{RUNS}?cursor={}", text(&page["nextCursor"]));
    let rest = admin.get(&next).await.expect(200).json();
    assert_eq!((&rest["items"][0]["runId"], &rest["nextCursor"]), (&runs[0]["runId"], &Value::Null));
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_during_a_run_gets_that_run() {
    // The loop does not come while this test lasts, so that the first run does not end.
    let shop = Shop::start_with(&[("payment.reconciliation.check_period_ms", "600000")]).await;
    let (id, later) = (Uuid::now_v7(), "now() + interval '1 hour'");
    shop.site
        .execute(&format!(
            "insert into {{payment}}.reconciliation_runs (id, provider, from_time, to_time, status, lease_until)
             values ('{id}', 'naverpay', now() - interval '1 day', now(), 'RUNNING', {later})"
        ))
        .await;
    let admin = shop.site.admin();
    let asked = join_all((0..3).map(|_| async { admin.post(RUNS, &json!({})).await.expect(200).json() })).await;
    assert!(asked.iter().all(|run| run["runId"] == id.to_string()), "{asked:?}");
    assert_eq!(shop.site.number("select count(*) from {payment}.reconciliation_runs").await, 1, "one run at a time");
    shop.stop().await;
}
