//! Runs of the archive: by the clock, by an administrator, one at a time, and gone on with when they were cut off.

use diesel::sql_query;
use diesel::sql_types::{Bool, Double};
use serde_json::{Value, json};
use testkit::{eventually, text};
use uuid::Uuid;

use crate::archiving::{RUNS, archive, ended, is_archived, make_old, run};
use crate::site::{NO_SWEEP, OrderSite, soon};

/// One order in each chunk, so that a run has many.
const ONE_BY_ONE: [(&str, &str); 5] = [
    ("order.expire_sweep_ms", "3600000"),
    ("order.archive.chunk", "1"),
    ("order.archive.busy_percent", "100"),
    ("order.archive.quiet_percent", "100"),
    ("order.archive.pause_ms", "0"),
];

#[derive(diesel::QueryableByName)]
struct Quiet {
    #[diesel(sql_type = Bool)]
    is_quiet: bool,
}

/// What a run asks before each chunk.
async fn is_quiet(site: &OrderSite) -> bool {
    // Here alone: a site executes as well.
    use diesel_async::RunQueryDsl;
    let query = sql_query(include_str!("../../src/archive_orders_quiet.sql")).bind::<Double, _>(3_600.0);
    let Quiet { is_quiet } = query.get_result(&mut *site.db("order").await.read().await.unwrap()).await.unwrap();
    is_quiet
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_buys_when_no_order_has_a_new_event() {
    let site = OrderSite::start_with(&NO_SWEEP).await;
    assert!(is_quiet(&site).await, "there was never an event");
    let buyer = site.buyer().await;
    site.order_of(&buyer).await;
    assert!(!is_quiet(&site).await);
    site.execute("update {order}.outbox_events set created_at = now() - interval '2 hours'").await;
    assert!(is_quiet(&site).await);
    site.order_of(&buyer).await;
    assert!(!is_quiet(&site).await, "the newest event decides");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_runs_the_archive_and_whoever_asks_meanwhile_is_shown_that_run() {
    let site = OrderSite::start_with(&ONE_BY_ONE).await;
    let replica = site.replica(&ONE_BY_ONE).await;
    let buyer = site.buyer().await;
    let orders = [site.order_of(&buyer).await, site.order_of(&buyer).await];
    for order in &orders {
        site.cancel(order).await.expect(200);
    }
    make_old(&site, &orders.iter().collect::<Vec<_>>()).await;
    let mut paused = site.pause("order", "archive_orders.after_commit");
    let asked = site.admin().post(RUNS, &json!({})).await.expect(202).json();
    soon("the first chunk is moved", paused.reached()).await;
    let again = replica.admin().post(RUNS, &json!({})).await.expect(200).json();
    assert_eq!((&again["runId"], &again["status"]), (&asked["runId"], &json!("RUNNING")));
    assert_eq!((&again["orders"], &again["chunks"]), (&json!(1), &json!(1)), "the counts are those of the moment");
    let locks = "select count(*) from pg_locks join pg_database on pg_database.oid = pg_locks.database
                  where locktype = 'advisory' and granted and datname = current_database()
                    and (classid::bigint << 32 | objid::bigint) = hashtextextended('archive of ' || '{order}', 0)";
    assert_eq!(site.number(&locks.replace("{order}", &site.schema("order"))).await, 1);
    paused.resume();
    let run = ended(&site, &text(&asked["runId"])).await;
    assert_eq!((&run["status"], &run["orders"], &run["chunks"]), (&json!("COMPLETED"), &json!(2), &json!(2)));
    assert_eq!(site.number("select count(*) from {order}.archive_runs").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_cut_off_is_gone_on_with() {
    let site = OrderSite::start().await;
    let buyer = site.buyer().await;
    let [first, second] = [site.order_of(&buyer).await, site.order_of(&buyer).await];
    for order in [&first, &second] {
        site.cancel(order).await.expect(200);
    }
    archive(&site, &[&first]).await;
    make_old(&site, &[&second]).await;
    // As a process leaves it that dies after its first chunk.
    site.execute(
        "update {order}.archive_runs set status = 'RUNNING', ended_at = null, unchanged_since = now() - interval '90 days'",
    )
    .await;
    let replica = site.replica(&NO_SWEEP).await;
    let runs = eventually("the replica goes on with it", async || {
        let runs = replica.admin().get(RUNS).await.expect(200).json();
        (runs["items"][0]["status"] == "COMPLETED").then_some(runs)
    })
    .await;
    assert_eq!(runs["items"].as_array().map(Vec::len), Some(1), "{runs}");
    assert_eq!((&runs["items"][0]["orders"], &runs["items"][0]["chunks"]), (&json!(2), &json!(2)), "{runs}");
    assert!(is_archived(&site, &second).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daily_run_is_made_once_by_whichever_replica_looks_first() {
    let site = OrderSite::start().await;
    let order = site.order().await;
    site.cancel(&order).await.expect(200);
    make_old(&site, &[&order]).await;
    let runs = "select count(*) from {order}.archive_runs";
    assert_eq!(site.number(runs).await, 0, "a new installation waits for the next time");
    site.execute("update {order}.archive_schedule set done_until = now() - interval '2 days'").await;
    let frequent = [("order.expire_sweep_ms", "3600000"), ("order.archive.check_period_ms", "5")];
    let replicas = [site.replica(&frequent).await, site.replica(&frequent).await];
    soon("the order is archived", site.until_number("select count(*) from {order}.orders_archive", 1)).await;
    soon("the run ends", site.until_number(&format!("{runs} where status = 'COMPLETED'"), 1)).await;
    // Both have looked again: each look of a replica that is due would make a run.
    let asked = run(&replicas[1]).await;
    assert_eq!((&asked["status"], &asked["orders"]), (&json!("COMPLETED"), &json!(0)));
    assert_eq!(site.number(&format!("{runs} where requested_by is null")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_meets_a_fault_ends_as_failed_and_says_why() {
    let site = OrderSite::start().await;
    let order = site.order().await;
    site.cancel(&order).await.expect(200);
    make_old(&site, &[&order]).await;
    // No code of ours makes an order twice.
    site.execute(
        "insert into {order}.orders_archive select orders.*, now() from {order}.orders;
         insert into {order}.archive_runs (id, unchanged_since, created_at, status)
         values (gen_random_uuid(), now(), now() - interval '1 hour', 'COMPLETED')",
    )
    .await;
    let run = run(&site).await;
    assert_eq!((&run["status"], &run["orders"]), (&json!("FAILED"), &json!(0)), "{run}");
    assert!(text(&run["error"]).contains("orders_archive_pkey"), "{run}");
    let page = site.admin().get(&format!("{RUNS}?limit=1")).await.expect(200).json();
    assert_eq!(page["items"][0]["runId"], run["runId"], "the newest is first");
    let next = site.admin().get(&format!("{RUNS}?cursor={}", text(&page["nextCursor"]))).await.expect(200).json();
    assert_eq!((next["items"].as_array().map(Vec::len), &next["nextCursor"]), (Some(1), &Value::Null));
    site.execute("delete from {order}.orders_archive").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_administrators_see_the_archive_run() {
    let site = OrderSite::start().await;
    let buyer = site.buyer().await;
    buyer.post(RUNS, &json!({})).await.refused(403, "FORBIDDEN");
    buyer.get(RUNS).await.refused(403, "FORBIDDEN");
    buyer.get(&format!("{RUNS}/{}", Uuid::now_v7())).await.refused(403, "FORBIDDEN");
    site.admin().get(&format!("{RUNS}/{}", Uuid::now_v7())).await.refused(404, "NOT_FOUND");
    site.admin().post(&format!("{RUNS}?dryRun=perhaps"), &json!({})).await.refused(400, "VALIDATION_ERROR");
    assert_eq!(site.number("select count(*) from {order}.archive_runs").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_reads_what_a_sale_is_publishing_once_however_much_that_is() {
    let site = OrderSite::start().await;
    // They wait for their next try, so that the relay leaves them.
    site.execute(
        "insert into {order}.outbox_events
             (event_id, shard, aggregate_type, topic, key, aggregate_version, payload, attempts, due_at)
         select gen_random_uuid(), 0, 'order', 'ORDER_CREATED', number, 1, '{}', 1, now() + interval '1 day'
           from generate_series(1, 500) as number",
    )
    .await;
    let statement = include_str!("../../src/archive_orders.sql");
    let parameters = [format!("'{}'", Uuid::nil()), "now()".to_owned(), "500".to_owned()];
    for mode in ["force_custom_plan", "force_generic_plan"] {
        let plan = site.explain("order", mode, statement, &parameters).await.to_string();
        assert_eq!(plan.matches("hashed SubPlan").count(), 4, "each is looked up and not searched: {plan}");
        assert!(!plan.contains("Anti"), "no order is compared with every event: {plan}");
    }
}
