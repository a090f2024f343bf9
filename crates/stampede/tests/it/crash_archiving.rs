//! The process dies while it moves orders to the archive: each order is in one place, and whoever comes next goes on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use stampede::audit;
use stampede::old_orders::write_old_orders;
use testkit::{Client, Product, Site, eventually, fresh_key, text};

use crate::archive::{RUNS, grow_old, newest_run};
use crate::crash_points::{crashing, each};
use crate::ledger::Ledger as _;
use crate::site::{EXECUTABLE, system};

pub const ARCHIVING: [&str; 4] = [
    "archive_orders.before_commit:2",
    "archive_orders.before_commit:1",
    "archive_orders.after_commit:1",
    "archive_orders.after_commit:3",
];
/// Two in each chunk, and one in the last.
const ORDERS: usize = 7;
/// Of the soak.
const OLD_ORDERS: usize = 20_000;
const KILLS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dying_in_the_middle_of_a_chunk_leaves_every_order_in_one_place() {
    each(&ARCHIVING[..1], die_while_archiving).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: every point, each with restarts"]
async fn dying_while_orders_are_archived_leaves_each_in_one_place() {
    each(&ARCHIVING[1..], die_while_archiving).await;
}

async fn die_while_archiving(point: &'static str) {
    let small = [("order.archive.chunk", "2"), ("order.archive.busy_percent", "100"), ("order.archive.pause_ms", "0")];
    let site = system().settings(&[&small[..], &crashing(point)].concat()).spawn(EXECUTABLE).await;
    println!("{point}: {}", site.log().display());
    let (product, buyer) = (site.product(20).await, site.buyer().await);
    let mut placed = BTreeMap::new();
    for _ in 0..ORDERS {
        let key = fresh_key();
        let answer = buyer.order(&key, &product, 1).await.expect(201);
        let path = format!("/orders/{}", text(&answer.json()["orderId"]));
        buyer.post(&format!("{path}/cancel"), &json!({})).await.expect(200);
        placed.insert(key, (path, answer.body));
    }
    site.settled().await;
    grow_old(&site).await;
    // It may die before it has answered.
    drop(site.admin().try_send(site.admin().request(Method::POST, RUNS)).await);
    eventually(&format!("{point} is passed"), async || site.is_dead().await.then_some(())).await;
    let count = async |table: &str| site.number(&format!("select count(*) from {{order}}.{table}")).await;
    assert_eq!(count("orders").await + count("orders_archive").await, 7, "{point}: each order is in one place");
    assert_eq!(count("order_items").await + count("order_items_archive").await, 7, "{point}: each item too");
    let counted = site.number("select orders from {order}.archive_runs").await;
    assert_eq!(counted, count("orders_archive").await, "{point}: what was moved is counted");

    site.revive(&[("host.crash_point", "")]).await;
    let run = newest_run(&site).await;
    assert_eq!((&run["status"], &run["orders"], &run["chunks"]), (&json!("COMPLETED"), &json!(7), &json!(4)), "{run}");
    for (key, (path, first)) in &placed {
        assert_eq!(buyer.get(path).await.expect(200).json()["archived"], true, "{point}: {path}");
        let again = buyer.order(key, &product, 1).await.expect(201);
        assert_eq!((&again.body, again.is_replay()), (first, true), "{point}: {key}");
    }
    site.assert_consistent().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: 20,000 orders, with kills"]
async fn many_orders_are_archived_beside_a_sale_while_the_process_is_killed() {
    let settings =
        [("order.archive.busy_percent", "100"), ("order.archive.pause_ms", "20"), ("kafka.session_timeout_ms", "2000")];
    let site = system().settings(&settings).spawn(EXECUTABLE).await;
    let (product, buyers) = (site.product(100_000).await, site.buyers(6).await);
    let mut ledger = audit::Ledger::open(&site.settings()).await.expect("PostgreSQL accepts us");
    let id = |text: &str| text.parse().expect("it is an id");
    write_old_orders(&mut ledger, id(&buyers[0].user_id), id(&product.id), OLD_ORDERS).await.expect("they are written");
    site.admin().post(RUNS, &json!({})).await.expect(202);

    let is_over = AtomicBool::new(false);
    let selling = join_all(buyers[1..].iter().map(|buyer| buy_until(buyer, &product, &is_over)));
    let archiving = async {
        for kill in 1..=KILLS {
            let moved = OLD_ORDERS * kill / (KILLS + 1);
            let reached = format!("select (count(*) >= {moved})::int from {{order}}.orders_archive");
            site.until_number(&reached, 1).await;
            site.kill().await;
            println!("killed after {}", site.number("select count(*) from {order}.orders_archive").await);
            site.revive(&[]).await;
        }
        let run = newest_run(&site).await;
        is_over.store(true, Ordering::SeqCst);
        run
    };
    let (sold, run) = tokio::join!(selling, archiving);
    println!("{} orders were placed meanwhile; {run}", sold.iter().map(BTreeMap::len).sum::<usize>());
    assert_eq!((&run["status"], &run["orders"]), (&json!("COMPLETED"), &json!(OLD_ORDERS)), "{run}");
    assert_eq!(run["items"], json!(OLD_ORDERS));
    for (buyer, placed) in buyers[1..].iter().zip(&sold) {
        for (order, answer) in placed {
            let read = buyer.get(&format!("/orders/{order}")).await.expect(200).json();
            assert_eq!((&read["totals"], read.get("archived")), (&answer["totals"], None), "{order} was acknowledged");
        }
    }
    site.assert_consistent().await;
    site.stop().await;
}

/// Orders one unit after the other, each under its key until it is answered. Returns the answers by the order's id.
async fn buy_until(buyer: &Client, product: &Product, is_over: &AtomicBool) -> BTreeMap<String, Value> {
    let mut placed = BTreeMap::new();
    while !is_over.load(Ordering::SeqCst) {
        let key = fresh_key();
        let answer = eventually("the order is answered", async || {
            let order = json!({ "items": [testkit::line(product, 1)] });
            let answer = buyer.try_send(buyer.placing(&key, &order)).await.ok()?;
            (!answer.status.is_server_error()).then_some(answer)
        })
        .await;
        let answer = answer.expect(201).json();
        placed.insert(text(&answer["orderId"]), answer);
    }
    placed
}

/// The system is at rest before it is asked, so this is not a [`Site`] of its own.
#[tokio::test(flavor = "multi_thread")]
async fn old_orders_as_they_are_written_for_measuring_break_no_invariant() {
    let site: Site = system().start().await;
    let (product, buyer) = (site.product(1).await, site.buyer().await);
    let mut ledger = audit::Ledger::open(&site.settings()).await.expect("PostgreSQL accepts us");
    let id = |text: &str| text.parse().expect("it is an id");
    for _ in 0..2 {
        write_old_orders(&mut ledger, id(&buyer.user_id), id(&product.id), 30).await.expect("they are written");
    }
    site.assert_consistent().await;
    let dry = site.admin().post(&format!("{RUNS}?dryRun=true"), &json!({})).await.expect(200).json();
    assert_eq!((&dry["orders"], &dry["items"]), (&json!(60), &json!(60)), "the archive would move them");
}
