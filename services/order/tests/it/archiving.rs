//! Orders that ended long ago move to the archive, and nobody notices. No test waits for the time: it moves it.

use std::collections::BTreeMap;

use common::auth::Role;
use serde_json::{Value, json};
use testkit::{eventually, fresh_key, line, text};
use uuid::Uuid;

use crate::site::{AMOUNT, NO_SWEEP, OrderSite, Placed, SWEEP, code, outcome, payment_refunded, sneaker, soon};

pub const RUNS: &str = "/admin/archive/runs";
/// As if these orders had not changed for a hundred days. What they had to announce is published.
pub async fn make_old(site: &OrderSite, orders: &[&Placed]) {
    let ids: Vec<String> = orders.iter().map(|order| format!("'{}'", order.id)).collect();
    let ids = ids.join(", ");
    let unpublished =
        format!("select count(*) from {{order}}.outbox_events where key in ({ids}) and status <> 'PUBLISHED'");
    soon("events are published", site.until_number(&unpublished, 0)).await;
    let old = "update {order}.orders set updated_at = now() - interval '100 days' where id in";
    site.execute(&format!("{old} ({ids})")).await;
}

/// Asks for a run, and returns it as it ends.
pub async fn run(site: &OrderSite) -> Value {
    let asked = site.admin().post(RUNS, &json!({})).await;
    assert!(asked.status.is_success(), "{asked}");
    ended(site, &text(&asked.json()["runId"])).await
}

pub async fn ended(site: &OrderSite, run: &str) -> Value {
    eventually("the run ends", async || {
        let run = site.admin().get(&format!("{RUNS}/{run}")).await.expect(200).json();
        (!["REQUESTED", "RUNNING"].contains(&run["status"].as_str().unwrap())).then_some(run)
    })
    .await
}

pub async fn archive(site: &OrderSite, orders: &[&Placed]) {
    make_old(site, orders).await;
    let run = run(site).await;
    assert_eq!((&run["status"], &run["orders"]), (&json!("COMPLETED"), &json!(orders.len())), "{run}");
}

pub async fn is_archived(site: &OrderSite, order: &Placed) -> bool {
    let live = site.number(&format!("select count(*) from {{order}}.orders where id = '{}'", order.id)).await;
    let archived =
        site.number(&format!("select count(*) from {{order}}.orders_archive where id = '{}'", order.id)).await;
    assert_eq!(live + archived, 1, "order {} is in one place", order.id);
    archived == 1
}

/// An order of each status, by its name.
async fn one_of_each(site: &OrderSite) -> BTreeMap<&'static str, Placed> {
    let buyer = site.buyer().await;
    let mut orders = BTreeMap::new();
    for status in ["CREATED", "PENDING_PAYMENT", "PAID", "REFUND_PENDING", "REFUNDED", "CANCELLED", "EXPIRED"] {
        let order = site.order_of(&buyer).await;
        let payment = Uuid::now_v7();
        match status {
            "PENDING_PAYMENT" => drop(site.begin_payment(&order, payment).await.unwrap()),
            "PAID" | "REFUND_PENDING" | "REFUNDED" => {
                site.reserve(&order, payment).await;
                site.mark_paid(&order, payment, false).await.unwrap();
            }
            "CANCELLED" => drop(site.cancel(&order).await.expect(200)),
            "EXPIRED" => {
                site.make_overdue(&[&order]).await;
                site.until_expired(&order, "an overdue order expires").await;
            }
            _ => {}
        }
        match status {
            "REFUND_PENDING" => drop(site.cancel(&order).await.expect(202)),
            "REFUNDED" => site.deliver("order", &payment_refunded(&order, payment, AMOUNT, AMOUNT)).await,
            _ => {}
        }
        assert_eq!(site.read(&order).await["status"], status);
        orders.insert(status, order);
    }
    orders
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_ended_long_ago_are_archived_and_no_others() {
    let site = OrderSite::start_with(&SWEEP).await;
    let orders = one_of_each(&site).await;
    let young = site.order().await;
    site.cancel(&young).await.expect(200);
    make_old(&site, &orders.values().collect::<Vec<_>>()).await;

    let dry = site.admin().post(&format!("{RUNS}?dryRun=true"), &json!({})).await.expect(200).json();
    assert_eq!((&dry["status"], &dry["orders"], &dry["items"]), (&json!("DRY_RUN"), &json!(4), &json!(4)), "{dry}");
    assert_eq!(site.number("select count(*) from {order}.orders_archive").await, 0, "a dry run moves nothing");
    assert_eq!(site.number("select count(*) from {order}.archive_runs").await, 0, "and is not kept");

    let run = run(&site).await;
    assert_eq!((&run["orders"], &run["items"], &run["chunks"]), (&json!(4), &json!(4), &json!(1)), "{run}");
    for (status, order) in &orders {
        let has_ended = ["PAID", "REFUNDED", "CANCELLED", "EXPIRED"].contains(status);
        assert_eq!(is_archived(&site, order).await, has_ended, "{status}");
    }
    assert!(!is_archived(&site, &young).await, "it has changed only now");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_one_line_for_each_run_that_says_what_it_has_moved() {
    let site = OrderSite::start().await;
    let buyer = site.buyer().await;
    let orders = [site.order_of(&buyer).await, site.order_of(&buyer).await];
    for order in &orders {
        site.cancel(order).await.expect(200);
    }
    make_old(&site, &orders.iter().collect::<Vec<_>>()).await;
    let run = run(&site).await;
    let id = text(&run["runId"]);
    let ends = format!("Archive run {id} ends, ");
    let lines = eventually("the run tells its end", async || {
        // The log of this process, where other tests write too.
        let log = std::fs::read_to_string(testkit::logs::file("all")).expect("this process writes a log");
        let lines: Vec<String> = log.lines().filter(|line| line.contains(&ends)).map(str::to_owned).collect();
        (!lines.is_empty()).then_some(lines)
    })
    .await;
    let [line] = &lines[..] else { panic!("one line tells of the run: {lines:?}") };
    let told = format!("{ends}COMPLETED: moved 2 orders with 2 items in 1 chunks and ");
    assert!(line.contains(" INFO ") && line.contains(&told), "{line}");
    for field in ["run.orders=2", "run.items=2", "run.chunks=1", "run.seconds="] {
        assert!(line.contains(field), "{field} can be searched for: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_order_is_read_and_listed_as_before_and_says_that_it_is_archived() {
    let site = OrderSite::start().await;
    let buyer = site.buyer().await;
    let mut orders = Vec::new();
    for number in 0..7 {
        let address =
            json!({ "recipient": "Kim", "phone": "010-0000-0000", "postalCode": "04524", "address": "Seoul" });
        let request = json!({ "items": [line(&sneaker(), 2)], "shippingInfo": address });
        let placed = buyer.place(&fresh_key(), &request).await.expect(201).json();
        let order = Placed { id: text(&placed["orderId"]), buyer: buyer.clone() };
        if number % 2 == 0 {
            site.cancel(&order).await.expect(200);
        }
        orders.push(order);
    }
    let pages = async || {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = buyer.get(&format!("/orders?limit=2{cursor}")).await.expect(200).json();
            items.extend(page["items"].as_array().unwrap().clone());
            let Some(next) = page["nextCursor"].as_str() else { return items };
            cursor = format!("&cursor={next}");
        }
    };
    let before = pages().await;
    let cancelled: Vec<&Placed> = orders.iter().step_by(2).collect();
    archive(&site, &cancelled).await;

    let told = |order: &Value| order["archived"] == true;
    let mut after = pages().await;
    assert_eq!(after.iter().map(told).collect::<Vec<_>>(), [true, false, true, false, true, false, true]);
    for order in &mut after {
        order.as_object_mut().unwrap().remove("archived");
    }
    assert_eq!(after, before, "the list is the same, in the same order");
    for (order, listed) in orders.iter().rev().zip(&before) {
        let mut read = site.read(order).await;
        read.as_object_mut().unwrap().remove("archived");
        assert_eq!(read, *listed);
    }
    assert_eq!(site.listed(&buyer, "CANCELLED").await.len(), 4);
    assert_eq!(site.listed(&buyer, "CREATED").await.len(), 3);
    let got = site.get(cancelled[0]).await;
    assert_eq!((got.status.as_str(), got.items.len()), ("CANCELLED", 1), "services find it as well");
    let stranger = Placed { buyer: site.user(Uuid::now_v7(), Role::User), ..cancelled[0].clone() };
    stranger.buyer.get(&format!("/orders/{}", stranger.id)).await.refused(404, "ORDER_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_an_archived_order_gives_its_first_answer_for_ever() {
    let site = OrderSite::start().await;
    let (buyer, key) = (site.buyer().await, fresh_key());
    let first = site.place(&buyer, &key).await.expect(201);
    let order = Placed { id: text(&first.json()["orderId"]), buyer: buyer.clone() };
    site.cancel(&order).await.expect(200);
    archive(&site, &[&order]).await;

    // The hold answers as it did at first; then everything is sold, and the look-up answers.
    for sold_out in [false, true] {
        if sold_out {
            site.inventory.sell_out();
        }
        let again = site.place(&buyer, &key).await.expect(201);
        assert_eq!((&again.body, again.is_replay()), (&first.body, true), "sold out: {sold_out}");
        buyer.order(&key, &sneaker(), 1).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    }
    assert!(is_archived(&site, &order).await, "to answer again, nothing has to move");
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1", "ORDER_CANCELLED 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_comes_while_its_order_is_being_archived_does_not_place_it_again() {
    let site = OrderSite::start().await;
    let replica = site.replica(&NO_SWEEP).await;
    let (buyer, key) = (site.buyer().await, fresh_key());
    let first = site.place(&buyer, &key).await.expect(201);
    let order = Placed { id: text(&first.json()["orderId"]), buyer: buyer.clone() };
    site.cancel(&order).await.expect(200);
    make_old(&site, &[&order]).await;
    let archiving = async { run(&site).await };
    let (run, again) = site.overlapping("archive_orders.before_commit", archiving, replica.place(&buyer, &key)).await;
    assert_eq!(run["orders"], 1, "{run}");
    assert_eq!((again.status.as_u16(), &again.body, again.is_replay()), (201, &first.body, true));
    assert!(is_archived(&site, &order).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_would_change_an_archived_order_is_answered_as_if_it_were_not_archived() {
    for is_in_archive in [false, true] {
        let site = OrderSite::start_with(&SWEEP).await;
        let orders = one_of_each(&site).await;
        let ended = ["PAID", "REFUNDED", "CANCELLED", "EXPIRED"].map(|status| &orders[status]);
        if is_in_archive {
            archive(&site, &ended).await;
        }
        let [paid, refunded, cancelled, expired] = ended;
        let mut told = Vec::new();
        for order in [refunded, cancelled, expired] {
            let payment = Uuid::now_v7();
            told.push(outcome(&site.cancel(order).await).1);
            told.push(code(&site.begin_payment(order, payment).await));
            told.push(code(&site.begin_approval(order, payment, Uuid::now_v7()).await));
            told.push(code(&site.mark_paid(order, payment, false).await));
        }
        let as_ever = [
            ["REFUNDED", "ORDER_NOT_PAYABLE", "ORDER_NOT_PAYABLE", "ORDER_NOT_PAYABLE"],
            ["CANCELLED", "ORDER_NOT_PAYABLE", "ORDER_NOT_PAYABLE", "ORDER_NOT_PAYABLE"],
            ["ORDER_NOT_CANCELLABLE", "HOLD_EXPIRED", "HOLD_EXPIRED", "ORDER_NOT_PAYABLE"],
        ];
        assert_eq!(told, as_ever.concat(), "archived: {is_in_archive}");
        assert_eq!(outcome(&site.cancel(paid).await), (202, "REFUND_PENDING".to_owned()), "archived: {is_in_archive}");
        let events = ["ORDER_CREATED 1", "ORDER_PLACED 3", "ORDER_REFUND_REQUESTED 4"];
        assert_eq!(site.events(paid).await, events, "archived: {is_in_archive}");
        assert_eq!(site.read(paid).await.get("archived"), None, "it is worked on again");
        // What was only asked about goes back with the next run, and the order that is worked on stays.
        assert_eq!(run(&site).await["orders"], if is_in_archive { 3 } else { 0 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_moves_long_after_an_order_was_archived_finds_it() {
    let site = OrderSite::start_with(&SWEEP).await;
    let (paid, payment) = site.paid_order().await;
    let expired = site.order().await;
    site.make_overdue(&[&expired]).await;
    site.until_expired(&expired, "an overdue order expires").await;
    archive(&site, &[&paid, &expired]).await;

    site.deliver("order", &payment_refunded(&paid, payment, AMOUNT, AMOUNT)).await;
    assert_eq!(site.read(&paid).await["status"], "REFUNDED");
    assert_eq!(site.events(&paid).await, ["ORDER_CREATED 1", "ORDER_PLACED 3", "ORDER_REFUNDED 4"]);
    let late = site.mark_paid(&expired, Uuid::now_v7(), true).await.unwrap();
    assert_eq!(late.status, "PAID", "its units were taken again: the order is paid");
    assert_eq!(site.events(&expired).await, ["ORDER_CREATED 1", "ORDER_EXPIRED 2", "ORDER_PLACED 3"]);
    assert_eq!(site.number("select count(*) from {order}.parked").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_about_which_something_is_pending_stays() {
    let site = OrderSite::start().await;
    let buyer = site.buyer().await;
    let [untold, dead, parked, free] = [
        site.order_of(&buyer).await,
        site.order_of(&buyer).await,
        site.paid_order().await.0,
        site.order_of(&buyer).await,
    ];
    for order in [&untold, &dead, &free] {
        site.cancel(order).await.expect(200);
    }
    make_old(&site, &[&untold, &dead, &parked, &free]).await;
    // It waits for its next try, so that the relay leaves it.
    let unfinished = format!(
        "update {{order}}.outbox_events set status = 'NEW', attempts = 1, due_at = now() + interval '1 day'
          where key = '{}' and topic = 'ORDER_CANCELLED';
         update {{order}}.outbox_events set status = 'DEAD' where key = '{}' and topic = 'ORDER_CANCELLED';
         insert into {{order}}.parked
             (consumer, topic, key, event_id, partition, kafka_offset, headers, payload, error)
         select 'order', 'PAYMENT_REFUNDED', paid_payment_id::text, id, 0, 0, '{{}}', '', 'a test'
           from {{order}}.orders where id = '{}'",
        untold.id, dead.id, parked.id
    );
    site.execute(&unfinished).await;
    let dry = site.admin().post(&format!("{RUNS}?dryRun=true"), &json!({})).await.expect(200).json();
    assert_eq!((&dry["orders"], &run(&site).await["orders"]), (&json!(1), &json!(1)), "both see the same");
    for (order, is_in_archive) in [(&untold, false), (&dead, false), (&parked, false), (&free, true)] {
        assert_eq!(is_archived(&site, order).await, is_in_archive);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_being_changed_is_left_to_the_next_run() {
    let site = OrderSite::start().await;
    let replica = site.replica(&NO_SWEEP).await;
    let (order, payment) = site.paid_order().await;
    make_old(&site, &[&order]).await;
    let mut paused = site.pause("order", "change_order.before_commit");
    let refund = site.cancel(&order);
    let archive = async {
        soon("the change is written", paused.reached()).await;
        let run = run(&replica).await;
        paused.resume();
        run
    };
    let (cancelled, run) = tokio::join!(refund, archive);
    assert_eq!(outcome(&cancelled), (202, "REFUND_PENDING".to_owned()));
    assert_eq!((&run["status"], &run["orders"]), (&json!("COMPLETED"), &json!(0)));
    assert!(!is_archived(&site, &order).await);
    assert_eq!(site.get(&order).await.paid_payment_id, payment.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_two_would_change_at_once_comes_back_once() {
    let site = OrderSite::start().await;
    let replica = site.replica(&NO_SWEEP).await;
    let (order, payment) = site.paid_order().await;
    archive(&site, &[&order]).await;
    let cancel = site.cancel(&order);
    let paid = replica.mark_paid(&order, payment, false);
    let (cancelled, paid) = site.overlapping("change_order.before_commit", cancel, paid).await;
    assert_eq!(outcome(&cancelled), (202, "REFUND_PENDING".to_owned()));
    assert_eq!(paid.unwrap().status, "REFUND_PENDING", "the second one sees what the first has made of it");
    assert!(!is_archived(&site, &order).await);
}

/// Whoever adds a column to a table of orders adds it to the archive, to the views and to the statements that move rows.
#[tokio::test(flavor = "multi_thread")]
async fn every_column_of_an_order_is_archived() {
    let site = OrderSite::start().await;
    let schema = site.schema("order");
    let columns = async |table: &str| {
        let columns = format!(
            "select column_name::text from information_schema.columns
              where table_schema = '{schema}' and table_name = '{table}' and column_name <> 'archived_at'
              order by 1"
        );
        site.rows(&columns).await.iter().map(|row| text(&row["column_name"])).collect::<Vec<_>>()
    };
    let statements = [include_str!("../../src/archive_orders.sql"), include_str!("../../src/restore_orders.sql")];
    for table in ["orders", "order_items", "shipping_info"] {
        let live = columns(table).await;
        assert_eq!(columns(&format!("{table}_archive")).await, live, "{table}_archive has the columns of {table}");
        assert_eq!(columns(&format!("all_{table}")).await, live, "all_{table} has the columns of {table}");
        let words = |statement: &str| -> Vec<String> {
            statement.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned).collect()
        };
        for statement in statements.map(words) {
            let missing: Vec<_> = live.iter().filter(|column| !statement.contains(column)).collect();
            assert!(missing.is_empty(), "{missing:?} of {table} do not move");
        }
    }
}
