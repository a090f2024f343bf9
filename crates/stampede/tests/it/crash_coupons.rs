//! The process dies while coupons are issued: as many are issued as there are, and nobody was told of one that is not stored.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use testkit::{Answer, Client, eventually, fresh_key, text};

use crate::crash_points::{crashing, each};
use crate::ledger::Ledger as _;
use crate::site::{EXECUTABLE, system};

pub const ISSUING: [&str; 9] = [
    "coupon.after_epoch:1",
    "coupon.before_publication:1",
    "coupon.after_lua:1",
    "coupon.after_lua:5",
    "coupon.after_lua:6",
    "coupon.before_commit:1",
    "coupon.after_commit:1",
    "coupon.after_commit:2",
    "coupon.before_settle:1",
];
const TOTAL: usize = 6;
const BUYERS: usize = 10;
/// Requests that each buyer sends at once.
const COPIES: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: every point, each with restarts"]
async fn dying_while_coupons_are_issued_neither_loses_nor_adds_one() {
    each(&ISSUING, die_while_issuing).await;
}

async fn die_while_issuing(point: &'static str) {
    // As many transactions as it takes, so that a later pass comes at all.
    let small = [("coupon.issue_batch.requests_max", "2")];
    let site = system().settings(&[&small[..], &crashing(point)].concat()).spawn(EXECUTABLE).await;
    println!("{point}: {}", site.log().display());
    let coupon = site.admin().create_coupon(&fresh_key(), &offer()).await.expect("an administrator makes coupons");
    let path = format!("/coupons/{coupon}/issue");
    let buyers = site.buyers(BUYERS).await;
    let asked = buyers.iter().flat_map(|buyer| (0..COPIES).map(move |_| buyer));
    let answers = join_all(asked.map(async |buyer| ask(buyer, &path).await)).await;
    let told: Vec<String> = answers.into_iter().flatten().filter_map(|answer| issue_of(point, &answer)).collect();
    eventually(&format!("{point} is passed"), async || site.is_dead().await.then_some(())).await;
    site.revive(&[("host.crash_point", "")]).await;

    // Those who were not answered do not ask again. Others do, until all are gone; what was taken for the first comes to
    // an end by itself.
    let others = site.buyers(TOTAL + 1).await;
    for other in &others {
        eventually(&format!("{point}: somebody else is answered"), async || {
            let answer = ask(other, &path).await?;
            (!answer.status.is_server_error()).then_some(())
        })
        .await;
    }
    let of_coupon = format!("from {{coupon}}.coupon_issue where coupon_id = '{coupon}'");
    site.until_number(&format!("select count(*) {of_coupon}"), TOTAL as i64).await;
    let stored = site.rows(&format!("select id {of_coupon}")).await;
    let stored: BTreeSet<String> = stored.iter().map(|row| text(&row["id"])).collect();
    let lost: Vec<&String> = told.iter().filter(|issue| !stored.contains(*issue)).collect();
    assert!(lost.is_empty(), "{point}: told of and not stored: {lost:?}");
    site.assert_consistent().await;
    for buyer in buyers.iter().chain(&others) {
        let answer = buyer.send(buyer.request(Method::POST, &path)).await;
        let has_one = issue_of(point, &answer).is_some_and(|issue| stored.contains(&issue));
        assert!(has_one || answer.code() == "COUPON_SOLD_OUT", "{point}: {answer}");
    }
    site.stop().await;
}

/// None: there was no answer.
async fn ask(buyer: &Client, path: &str) -> Option<Answer> {
    buyer.try_send(buyer.request(Method::POST, path)).await.ok()
}

/// The issue that an answer tells its buyer of: a new one, or the one that they have.
fn issue_of(point: &str, answer: &Answer) -> Option<String> {
    match answer.status.as_u16() {
        201 => Some(text(&answer.json()["issueId"])),
        409 if answer.code() == "COUPON_ALREADY_ISSUED" => Some(text(&answer.json()["details"][0]["issueId"])),
        409 | 503 => None,
        _ => panic!("{point}: {answer}"),
    }
}

fn offer() -> serde_json::Value {
    json!({
        "name": "Crash",
        "discount": { "kind": "PERCENT", "value": 10 },
        "currency": "KRW",
        "total": TOTAL,
        "startsAt": "2026-01-01T00:00:00Z",
        "expiresAt": "2036-01-01T00:00:00Z",
        "restoredOnRefund": true,
    })
}

/// Each kill hits a sale with coupons that are paid for. The verdict believes what the buyers were told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: kills of the service and of every server"]
async fn a_sale_with_coupons_survives_the_kill_of_each_part() {
    let output = tokio::process::Command::new(EXECUTABLE)
        .args(["rush", "--sandbox", "--split", "--coupons", "60", "--pay", "--buyers", "200", "--stock", "80"])
        .args(["--sample", "2", "--duplicates", "0.4", "--concurrency", "16", "--output", "json"])
        .args(["--kill", "coupon", "--kill", "redis", "--kill", "flushall", "--kill", "kafka", "--kill", "postgres"])
        .args(["--timeout-seconds", "600"])
        .output()
        .await
        .expect("the executable runs");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = printed.lines().last().unwrap_or_default();
    let outcome: serde_json::Value = serde_json::from_str(last).unwrap_or_else(|error| {
        panic!("{error}: {printed} {}", String::from_utf8_lossy(&output.stderr));
    });
    println!("{outcome}");
    assert_eq!(
        (&outcome["verdict"], outcome["kills"].as_array().map(Vec::len)),
        (&json!("PASS"), Some(5)),
        "{outcome}"
    );
    assert_eq!((&outcome["couponsIssued"], &outcome["couponsOverIssued"]), (&json!(60), &json!(0)), "{outcome}");
}
