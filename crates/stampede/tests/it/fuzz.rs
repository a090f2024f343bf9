//! A fuzzer (schemathesis) reads the description of the API and sends what it allows and what it does not: every answer is one
//! that the description tells of, and none is a fault.

use std::process::Stdio;
use std::time::Duration;

use testkit::{Client, Site};
use tokio::process::Command;

use crate::ledger::Ledger;
use crate::site::system;
use crate::tidy::root;

/// Random cases for each operation, in each phase that has any.
const EXAMPLES: &str = "60";
/// So long for each account: the last phases, whose cases are random, go on until then.
const SECONDS: &str = "240";
/// Time to read the description before, and to report after.
const SECONDS_MAX: u64 = 290;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: eight minutes of random requests"]
async fn a_fuzzer_finds_no_fault_and_no_answer_that_is_not_described() {
    let site = system().start().await;
    let mut flawed = Vec::new();
    for (who, client) in [("administrator", site.admin()), ("buyer", site.buyer().await)] {
        // Something to find, whoever looks.
        let product = site.product(1_000_000).await;
        client.order(&testkit::fresh_key(), &product, 1).await.expect(201);
        println!("--- the fuzzer as {who}");
        if !is_clean(&site, &client).await {
            flawed.push(who);
        }
    }
    assert!(flawed.is_empty(), "the fuzzer found flaws as {flawed:?}; they are above, each with a curl command");
    site.settled().await;
    // It asks for messages to people whom it makes up. Those are dead letters, as they should be, and the audit shows any.
    site.execute(
        "delete from {notification_hub}.deliveries
          where status = 'FAILED' and last_error = 'RECIPIENT_UNKNOWN' and notification_id in
                (select id from {notification_hub}.notifications where requested_by is not null)",
    )
    .await;
    site.assert_consistent().await;
    site.stop().await;
}

async fn is_clean(site: &Site, client: &Client) -> bool {
    let token = client.token.as_deref().expect("somebody is logged in");
    let mut fuzzer = Command::new("/usr/bin/python3");
    fuzzer.arg(root().join("crates/testkit/pinned.py"));
    fuzzer.arg(root().join("crates/stampede/tests/fuzz/requirements.txt"));
    fuzzer.args(["-m", "schemathesis.cli", "--config-file"]);
    fuzzer.arg(root().join("crates/stampede/tests/fuzz/schemathesis.toml"));
    fuzzer.args(["run", &format!("{}/openapi.json", site.api), "--url", &site.api]);
    fuzzer.args([
        "--header",
        &format!("Authorization: Bearer {token}"),
        "--max-examples",
        EXAMPLES,
        "--max-time",
        SECONDS,
    ]);
    fuzzer.args([
        "--phases",
        "examples,coverage,fuzzing,stateful",
        "--workers",
        "2",
        "--continue-on-failure",
        "--no-color",
    ]);
    // A stream has no end.
    fuzzer.args(["--exclude-path-regex", "/stream$"]);
    // A schema cannot say which things there are, nor what holds between two fields: refusing what it allows, with an
    // answer that is described, is no flaw.
    fuzzer.args(["--checks", "all", "--exclude-checks", "positive_data_acceptance"]);
    // It keeps the cases that it has found.
    fuzzer.current_dir(env!("CARGO_TARGET_TMPDIR")).env("NO_PROXY", "127.0.0.1");
    let running = fuzzer.stdin(Stdio::null()).kill_on_drop(true).status();
    let ended = tokio::time::timeout(Duration::from_secs(SECONDS_MAX), running).await;
    ended.expect("the fuzzer keeps to its time").expect("/usr/bin/python3 runs").success()
}
