//! `stampede trace order`: each step of an order is told once and in order, wherever the order is.

use serde_json::{Value, json};
use stampede::trace::{self, Story};
use testkit::{Site, fresh_key, text};
use uuid::Uuid;

use crate::archive::{RUNS, grow_old, newest_run};
use crate::commands::Place;
use crate::ledger::Ledger as _;
use crate::payer::Payer as _;
use crate::site::system;

async fn story(site: &Site, order: &str) -> Story {
    let id: Uuid = order.parse().expect("an id");
    let story = trace::order(&site.settings(), id).await.expect("PostgreSQL answers");
    story.unwrap_or_else(|| panic!("{order} is stored"))
}

/// The steps of `service`, in the order in which they are told.
fn steps<'s>(story: &'s Story, service: &str) -> Vec<&'s str> {
    story.steps.iter().filter(|step| step.service == service).map(|step| step.step.as_str()).collect()
}

/// The steps whose names begin so.
fn named<'s>(story: &'s Story, start: &str) -> Vec<&'s str> {
    story.steps.iter().map(|step| step.step.as_str()).filter(|step| step.starts_with(start)).collect()
}

#[track_caller]
fn assert_each_is_told_once_in_order(story: &Story) {
    let mut seen = std::collections::BTreeSet::new();
    for step in &story.steps {
        // One delivery may be tried several times, each under a claim of its own.
        let what = (&step.service, &step.step, &step.about, step.details["claim"].to_string());
        assert!(seen.insert(what), "{} of {} is told twice: {}", step.step, step.about, story.text());
    }
    assert!(story.steps.is_sorted_by_key(|step| step.at), "{}", story.text());
}

/// Another order of the same buyer is another story.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paid_and_refunded_order_tells_each_step_once_live_and_archived() {
    let site = system().start().await;
    let (product, buyer) = (site.product(5).await, site.buyer().await);
    let agreed = buyer.agrees(&site, &product).await;
    let (other, _) = buyer.orders(&product).await;
    buyer.approve(&agreed).await.expect(200);
    site.settled().await;
    let paid = story(&site, &agreed.order).await;
    assert_eq!(steps(&paid, "inventory"), ["UNITS HELD", "HOLD IS CONFIRMED", "STOCK CONFIRM"], "{}", paid.text());
    assert!(paid.text().contains("HOLD IS CONFIRMED"), "{}", paid.text());

    buyer.post(&format!("/orders/{}/cancel", agreed.order), &json!({})).await.expect(202);
    buyer.sees_order(&agreed.order, "REFUNDED").await;
    site.settled().await;
    let live = story(&site, &agreed.order).await;
    assert_each_is_told_once_in_order(&live);
    assert_eq!((live.order.status.as_str(), live.order.archived_at), ("REFUNDED", None));
    assert!(
        live.order.items[0].starts_with("1 x ") && live.order.items[0].ends_with("at 129000"),
        "{:?}",
        live.order.items
    );
    let of_order = steps(&live, "order");
    let told = ["EVENT ORDER_CREATED", "EVENT ORDER_PLACED", "EVENT ORDER_REFUND_REQUESTED", "EVENT ORDER_REFUNDED"];
    assert_eq!(of_order.iter().filter(|step| step.starts_with("EVENT")).copied().collect::<Vec<_>>(), told);
    assert!(of_order.contains(&"ORDER CREATED") && of_order.contains(&"ORDER IS REFUNDED"), "{of_order:?}");
    let of_payment: Vec<&str> = steps(&live, "payment").into_iter().filter(|step| !step.starts_with("EVENT")).collect();
    let in_turn = ["PAYMENT PREPARED", "ATTEMPT STARTED", "ATTEMPT SUCCESS", "REFUND PROMISED", "REFUND SUCCEEDED"];
    assert_eq!(of_payment[..in_turn.len()], in_turn, "{}", live.text());
    assert_eq!(of_payment[in_turn.len()..], ["PAYMENT IS REFUNDED"]);
    // An event has the time at which its transaction began.
    assert_eq!(named(&live, "EVENT PAYMENT"), ["EVENT PAYMENT_APPROVED", "EVENT PAYMENT_REFUNDED"]);
    assert_eq!(named(&live, "STOCK"), ["STOCK CONFIRM", "STOCK RETURN"]);
    assert_eq!(named(&live, "EMAIL SENT").len(), 3, "created, placed, refunded: {}", live.text());
    let created = live.steps.iter().find(|step| step.step == "EVENT ORDER_CREATED").expect("it is told");
    assert_eq!(created.details["appliedBy"].as_array().map(Vec::len), Some(1), "{created:?}");
    assert!(created.details["publishedAt"].is_string(), "{created:?}");
    assert!(!live.text().contains(&other), "{}", live.text());

    // A day later the outboxes have forgotten it, and after three months it is archived.
    site.execute("delete from {order}.outbox_events; delete from {payment}.outbox_events").await;
    grow_old(&site).await;
    site.admin().post(RUNS, &json!({})).await.expect(202);
    assert_eq!(newest_run(&site).await["orders"], 1);
    let archived = story(&site, &agreed.order).await;
    assert!(archived.order.archived_at.is_some());
    assert_each_is_told_once_in_order(&archived);
    assert_eq!(archived.steps.last().map(|step| step.step.as_str()), Some("ORDER ARCHIVED"), "{}", archived.text());
    let kept = |story: &Story| -> Vec<String> {
        let kept = story.steps.iter().filter(|step| !step.step.starts_with("EVENT") && !step.step.starts_with("ORDER"));
        kept.map(|step| format!("{} {}", step.step, step.about)).collect()
    };
    assert_eq!(kept(&archived), kept(&live));
    let marks: Vec<&Value> =
        archived.steps.iter().filter(|step| step.step.starts_with("EVENT")).map(|step| &step.details).collect();
    assert!(marks.iter().any(|mark| mark["appliedBy"].is_array() && mark["isDayOnly"] == true), "{marks:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_tells_the_story_and_knows_no_other_order() {
    let site = system().start().await;
    let (product, buyer) = (site.product(1).await, site.buyer().await);
    let order = text(&buyer.order(&fresh_key(), &product, 1).await.expect(201).json()["orderId"]);
    site.settled().await;
    let place = Place::new("trace").await.set("host.namespace", site.namespace());
    let shown = [order.as_str(), "CREATED, version 1, 129000 KRW", "UNITS HELD", "ORDER CREATED", "EMAIL SENT"];
    place.stampede(&format!("trace order {order} --data-dir {{data}}")).await.expect(0, &shown);
    let told = place.stampede(&format!("trace order {order} --json --data-dir {{data}}")).await.expect(0, &[]).json();
    assert_eq!((&told["orderId"], &told["status"]), (&json!(order), &json!("CREATED")), "{told}");
    assert!(told["steps"].as_array().is_some_and(|steps| steps.len() > 4), "{told}");
    let nobody = Uuid::new_v4();
    let unknown = format!("no order {nobody} is stored");
    place.stampede(&format!("trace order {nobody} --data-dir {{data}}")).await.expect(1, &[&unknown]);
    place.stampede("trace order sneakers --data-dir {data}").await.expect(2, &["sneakers", "a UUID"]);
    let place = place.set("postgres.url", "postgres://stampede@127.0.0.1:1/stampede");
    place.stampede(&format!("trace order {order} --data-dir {{data}}")).await.expect(3, &["gives no connection"]);
}
