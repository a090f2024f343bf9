//! The provider's book against our payments.

use std::time::Duration;

use common::auth::Role;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::site::{Site, until};

const RUNS: &str = "/admin/reconciliation/runs";

/// Has everything up to now compared; the run as it ended.
async fn reconcile(site: &Site) -> Value {
    // The provider knows whole seconds only.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let (status, run) = site.call(Method::POST, RUNS, Role::Admin, None).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{run}");
    let path = format!("{RUNS}/{}", run["runId"].as_str().unwrap());
    let mut run = run;
    until("the run ends", async || {
        run = site.call(Method::GET, &path, Role::Admin, None).await.1;
        !["REQUESTED", "RUNNING"].contains(&run["status"].as_str().unwrap())
    })
    .await;
    assert_eq!(run["status"], "COMPLETED", "{run}");
    run
}

/// (kind, our name, what was done), in alphabetical order.
fn findings(run: &Value) -> Vec<(String, String, String)> {
    let text = |finding: &Value, member: &str| finding[member].as_str().unwrap().to_owned();
    let each = |finding: &Value| (text(finding, "kind"), text(finding, "merchantPayKey"), text(finding, "action"));
    let mut findings: Vec<_> = run["findings"].as_array().unwrap().iter().map(each).collect();
    findings.sort();
    findings
}

#[tokio::test(flavor = "multi_thread")]
async fn every_difference_is_found_and_stray_money_does_not_stay() {
    let site = Site::start("differences").await;
    let id = || Uuid::now_v7();
    let [right, twice, missing, amount, refunded, order, failed, open] =
        [id(), id(), id(), id(), id(), id(), id(), id()];
    for id in [right, twice, order] {
        let pg = site.capture(&id.to_string(), 1_000).await;
        let its_order = site.payment(id, "PAID", &pg).await;
        if id == order {
            site.orders.set(its_order, "EXPIRED");
        }
    }
    site.capture(&twice.to_string(), 1_000).await;
    site.payment(missing, "PAID", "P-none").await;
    let pg = site.capture(&amount.to_string(), 900).await;
    site.payment(amount, "PAID", &pg).await;
    let pg = site.capture(&refunded.to_string(), 1_000).await;
    site.payment(refunded, "PAID", &pg).await;
    site.cancel(&pg, 400).await;
    let pg = site.capture(&failed.to_string(), 1_000).await;
    site.payment(failed, "FAILED", &pg).await;
    let pg = site.capture(&open.to_string(), 1_000).await;
    site.payment(open, "NEEDS_REVIEW", &pg).await;
    site.capture("somebody-elses-order", 5_000).await;

    let run = reconcile(&site).await;
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
    // Twice 1,000, missing 1,000, 100 too little, 400 back, 1,000 unexpected, 5,000 of nobody.
    assert_eq!(run["difference"]["amount"], 1_000 - 1_000 - 100 - 400 + 1_000 + 5_000);

    let paid = format!("select count(*) from payments where id = '{failed}' and status = 'PAID'");
    until("the stray money is honoured", async || site.number(&paid).await == 1).await;
    let before = site.net().await;
    assert_eq!(before, 3 * 1_000 + 900 + 600 + 1_000 + 1_000, "only what somebody has or may get is left");
    let owed = format!("select count(*) from payments where id = '{failed}' and not owes_order");
    until("the order knows", async || site.number(&owed).await == 1).await;

    assert_eq!(findings(&reconcile(&site).await), lasting, "what was helped is no finding any more");
    assert_eq!(site.net().await, before, "nothing is given back twice");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_the_operators_and_one_at_a_time() {
    let site = Site::start("runs").await;
    for (method, path) in [(Method::POST, RUNS), (Method::GET, RUNS)] {
        assert_eq!(site.call(method, path, Role::User, None).await.0, StatusCode::FORBIDDEN);
    }
    for body in [
        json!({ "from": "2026-01-01T00:00:00Z", "to": "2026-03-01T00:00:00Z" }),
        json!({ "from": "2999-01-01T00:00:00Z" }),
        json!({ "since": "2026-01-01T00:00:00Z" }),
    ] {
        let (status, problem) = site.call(Method::POST, RUNS, Role::Admin, Some(body)).await;
        assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("VALIDATION_ERROR")));
    }
    let missing = format!("{RUNS}/{}", Uuid::now_v7());
    assert_eq!(site.call(Method::GET, &missing, Role::Admin, None).await.0, StatusCode::NOT_FOUND);

    let (first, second) = (reconcile(&site).await, reconcile(&site).await);
    assert_eq!(first["findingsCount"], 0);
    let (_, page) = site.call(Method::GET, &format!("{RUNS}?limit=1"), Role::Admin, None).await;
    assert_eq!(page["items"][0]["runId"], second["runId"]);
    let next = format!("{RUNS}?cursor={}", page["nextCursor"].as_str().unwrap());
    let (_, rest) = site.call(Method::GET, &next, Role::Admin, None).await;
    assert_eq!((&rest["items"][0]["runId"], &rest["nextCursor"]), (&first["runId"], &Value::Null));

    let asked = futures_util::future::join_all((0..10).map(|_| site.call(Method::POST, RUNS, Role::Admin, None))).await;
    assert!(asked.iter().all(|(status, _)| [StatusCode::ACCEPTED, StatusCode::OK].contains(status)));
    let overlapping = "select count(*) from reconciliation_runs where status in ('REQUESTED', 'RUNNING')";
    assert!(site.number(overlapping).await <= 1);
    site.stop().await;
}
