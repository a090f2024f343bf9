//! The process dies at its worst moments, comes back, and is asked again: nothing acknowledged is lost, nothing is done
//! twice. Each point is named in the code where it lies.

use crate::ledger::Ledger;
use crate::site::{EXECUTABLE, system};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use testkit::{Client, Product, Site, eventually, fresh_key, text};

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::sync::Semaphore;

use crate::crash_archiving::ARCHIVING;
use crate::crash_coupons::ISSUING;
use crate::crash_late::{LATE, UNDOING};
use crate::crash_paying::{PAYING, RECONCILING};
use crate::ledger::Units;
use crate::tidy;

/// Dying while an order is placed. The number says at which pass.
const PLACING: [&str; 10] = [
    "order.after_hold:1",
    "order.before_commit:1",
    "order.before_commit:2",
    "order.after_commit:1",
    "order.after_commit:7",
    "hold.before_commit:1",
    "hold.after_commit:1",
    "hold.after_commit:2",
    "hold.before_gate_settle:1",
    "batch.half_answered:4",
];
/// Dying while the news of it travels.
const TELLING: [&str; 7] = [
    "relay.after_select:1",
    "relay.after_ack:1",
    "relay.after_ack:2",
    "relay.after_mark:1",
    "inbox.after_insert:1",
    "inbox.after_commit:1",
    "inbox.after_commit:2",
];
/// Dying while somebody is told.
const SENDING: [&str; 2] = ["delivery.after_claim:1", "delivery.after_send:1"];
/// Dying while lapsed holds are tidied away.
const SWEEPING: [&str; 1] = ["sweeper.mid:1"];
/// Dying while orders that nobody paid expire.
const EXPIRING: [&str; 1] = ["expire_orders.before_commit:1"];

/// How much is sold while the process dies.
#[derive(Clone, Copy)]
struct Sale {
    buyers: usize,
    orders_each: usize,
}

const MANY: Sale = Sale { buyers: 6, orders_each: 4 };
const ONE: Sale = Sale { buyers: 1, orders_each: 1 };
const STOCK: i64 = 40;

/// One point of each step; the soak tries them all, each with many orders.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dying_once_at_each_step_of_an_order_neither_loses_nor_doubles_it() {
    const ONE_OF_EACH: [&str; 4] =
        ["order.after_commit:1", "hold.after_commit:1", "relay.after_ack:1", "inbox.after_insert:1"];
    each(&ONE_OF_EACH, async |point| die_and_be_asked_again(point, ONE, &crashing(point)).await).await;
}

/// The settings of a site that dies at `point`. What a dead consumer had is given to others soon.
pub fn crashing(point: &str) -> [(&str, &str); 3] {
    [("host.crash_point", point), ("postgres.connections_max", "3"), ("kafka.session_timeout_ms", "2000")]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: every point, each with restarts"]
async fn dying_while_an_order_is_placed_neither_loses_nor_doubles_it() {
    all(&PLACING, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: every point, each with restarts"]
async fn dying_while_an_event_travels_neither_loses_nor_doubles_its_effect() {
    all(&TELLING, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: every point, each with restarts"]
async fn dying_while_an_email_is_sent_leaves_one_notification_that_is_sent() {
    // As short as a lease may be: a claim of 64 needs one round of two seconds, and a margin of five.
    let lease = [
        ("notification_hub.lease_seconds", "7"),
        ("notification_hub.new_lease_seconds", "7"),
        ("notification_hub.claim_batch_max", "64"),
        ("notification_hub.email.timeout_ms", "2000"),
        ("notification_hub.slack.timeout_ms", "2000"),
        ("notification_hub.webhook.timeout_ms", "2000"),
    ];
    all(&SENDING, &lease).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: every point, each with restarts"]
async fn dying_while_sweeping_gives_every_unit_back_once() {
    // Orders are not swept before the crash: the news that they have expired would give the units back as well.
    all(&SWEEPING, &[("inventory.hold_ttl_seconds", "5"), ("order.expire_sweep_ms", "600000")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: waits for the orders' time"]
async fn dying_while_orders_expire_gives_every_unit_back_once() {
    all(&EXPIRING, &[("inventory.hold_ttl_seconds", "5"), ("order.expire_sweep_ms", "200")]).await;
}

#[test]
fn every_crash_point_of_the_code_is_tried() {
    let tried = [
        &PLACING[..],
        &TELLING,
        &SENDING,
        &SWEEPING,
        &EXPIRING,
        &PAYING,
        &RECONCILING,
        &LATE,
        &UNDOING,
        &ARCHIVING,
        &ISSUING,
    ]
    .concat();
    let tried: BTreeSet<&str> = tried.iter().filter_map(|point| point.split(':').next()).collect();
    let mut named = BTreeSet::new();
    let sources = tidy::sources();
    for source in &sources {
        for call in ["crash::point(\"", ".point(\""] {
            let calls = source.text.split(call).skip(1);
            named.extend(calls.map(|rest| rest.split('"').next().expect("split yields at least one part")));
        }
    }
    let files = tidy::files("rs");
    let paused = files.iter().filter(|file| file.path.contains("/tests/")).flat_map(|file| {
        // pause(service, point), of a site or of a schema: the last text of its arguments
        let calls = file.text.split("pause(").skip(1).filter_map(|rest| rest.split(')').next());
        let points = calls.filter_map(|arguments| arguments.rsplit('"').nth(1));
        // The kit's own tests have points of their own.
        points.filter(|point| point.contains('.') && !point.starts_with("tests."))
    });
    let tried: BTreeSet<&str> = tried.into_iter().chain(paused).collect();
    assert_eq!(
        tried, named,
        "add new points to the tables above or pause at them in a test, and remove those that are gone"
    );
}

async fn all(points: &[&'static str], overrides: &[(&str, &str)]) {
    each(points, async |point| {
        die_and_be_asked_again(point, MANY, &[overrides, &crashing(point)].concat()).await;
    })
    .await;
}

/// Several sites at once, because most of what they do is wait.
pub async fn each(points: &[&'static str], attempt: impl AsyncFn(&'static str)) {
    static SITES: Semaphore = Semaphore::const_new(4);
    let attempts = points.iter().map(async |point| {
        let _place = SITES.acquire().await.expect("it is never closed");
        AssertUnwindSafe(attempt(point)).catch_unwind().await.err().map(|_| *point)
    });
    let failed: Vec<&str> = join_all(attempts).await.into_iter().flatten().collect();
    assert!(failed.is_empty(), "{failed:?} failed; what each said is above");
}

async fn die_and_be_asked_again(point: &str, sale: Sale, overrides: &[(&str, &str)]) {
    let site = system().settings(overrides).spawn(EXECUTABLE).await;
    println!("{point}: {}", site.log().display());
    let (product, buyers) = (site.product(STOCK).await, site.buyers(sale.buyers).await);
    let orders = 0..sale.buyers * sale.orders_each;
    let wanted: Vec<(usize, String)> = orders.map(|order| (order % sale.buyers, fresh_key())).collect();

    let told = place_until_dead(&site, &buyers, &product, &wanted).await;
    eventually(&format!("{point} is passed"), async || site.is_dead().await.then_some(())).await;
    site.revive(&[("host.crash_point", ""), ("order.expire_sweep_ms", "200")]).await;

    // Who was not answered asks again, and so does who was: the answer is the same to the byte.
    let mut ids = BTreeSet::new();
    for (buyer, key) in &wanted {
        let answer = eventually(&format!("{point}: {key} is answered"), async || {
            let answer = buyers[*buyer].order(key, &product, 1).await;
            (!answer.status.is_server_error()).then_some(answer)
        })
        .await
        .expect(201);
        ids.insert(text(&answer.json()["orderId"]));
        if let Some(first) = told.get(key) {
            assert_eq!((first, answer.is_replay()), (&answer.body, true), "{point}: {key} was answered before");
        }
    }
    assert_eq!(ids.len(), wanted.len(), "{point}: each key has an order of its own");
    assert_orders_are_exact(point, &site, &product, &ids).await;
    site.stop().await;
}

/// Places all orders at once. Returns the bodies of those that were acknowledged, by key.
async fn place_until_dead(
    site: &Site,
    buyers: &[Client],
    product: &Product,
    wanted: &[(usize, String)],
) -> HashMap<String, String> {
    let placing = wanted.iter().map(async |(buyer, key)| {
        let order = serde_json::json!({ "items": [testkit::line(product, 1)] });
        let client = &buyers[*buyer];
        let answer = client.try_send(client.placing(key, &order)).await.ok()?;
        match answer.status.as_u16() {
            201 => Some((key.clone(), answer.body)),
            status => {
                assert!(status >= 500, "{answer} at {}", site.api);
                None
            }
        }
    });
    join_all(placing).await.into_iter().flatten().collect()
}

async fn assert_orders_are_exact(point: &str, site: &Site, product: &Product, ids: &BTreeSet<String>) {
    let expires = site.settings().section::<u32>("inventory.hold_ttl_seconds").expect("it is set") < 60;
    if expires {
        let open = "select count(*) from {order}.orders where status = 'CREATED'";
        eventually("every order expires", async || (site.number(open).await == 0).then_some(())).await;
    }
    site.assert_consistent().await;
    let stored = site.rows("select id from {order}.orders").await;
    let stored: BTreeSet<String> = stored.iter().map(|row| text(&row["id"])).collect();
    assert_eq!(&stored, ids, "{point}: orders stored, and orders told");
    let held = if expires { 0 } else { ids.len() as i64 };
    eventually(&format!("{point}: {held} units are held"), async || {
        (site.units(product).await == Units { on_hand: STOCK, held }).then_some(())
    })
    .await;
    let mut counts = BTreeMap::new();
    for table in ["{inventory}.holds", "{notification_hub}.notifications", "{notification_hub}.deliveries"] {
        counts.insert(table, site.number(&format!("select count(*) from {table}")).await);
    }
    assert!(counts.values().all(|count| *count == ids.len() as i64), "{point}: {} orders, {counts:?}", ids.len());
    // What is left can be sold, exactly.
    let buyer = site.buyer().await;
    let left = STOCK - held;
    eventually(&format!("{point}: the {left} units that are left can be bought"), async || {
        (buyer.order("the-rest", product, left).await.status == 201).then_some(())
    })
    .await;
    buyer.order("one-more", product, 1).await.refused(409, "OUT_OF_STOCK");
}
