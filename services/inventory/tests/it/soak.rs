//! What needs many rounds to show, or kills and empties servers. Each has deterministic sisters in the other files.

use std::time::Duration;

use chrono::Utc;
use contract::inventory::{Hold, HoldState};
use futures_util::future::join_all;
use sandbox::{Sandbox, Server};
use testkit::{Product, eventually, servers};
use uuid::Uuid;

use crate::site::{Site, code};

/// Servers of a test's own. They end with this process.
async fn own_servers(purpose: &str) -> &'static Sandbox {
    Box::leak(Box::new(servers::start(purpose).await))
}

/// Everything that runs by itself does so often.
const BUSY: [(&str, &str); 3] = [
    ("inventory.sweep_period_ms", "100"),
    ("inventory.gate.check_period_ms", "300"),
    ("inventory.gate.rebuild_pause_ms", "200"),
];

/// 20 workers buy until they are told that it is sold out for good; returns how many units they got.
async fn buy_all(site: &Site, product: &Product, units: usize, trouble: impl AsyncFn(usize)) -> usize {
    let trouble = &trouble;
    let bought = join_all((0..20).map(|worker| async move {
        let (mut bought, mut refused) = (0, 0);
        // A gate that forgot may under-sell for a moment, so one refusal is not the end.
        while refused < 40 {
            match site.hold_one(product).await {
                Ok(_) => bought += 1,
                Err(_) => {
                    refused += 1;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            if worker == 0 {
                trouble(bought).await;
            }
        }
        bought
    }));
    let bought = bought.await.into_iter().sum();
    assert!(bought <= units, "{bought} of {units} were sold");
    bought
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: empties a Redis of its own hundreds of times"]
async fn emptying_redis_in_mid_sale_is_harmless() {
    let site = Site::start_on(own_servers("flush").await, &BUSY).await;
    let product = site.product(300).await;
    let sold = buy_all(&site, &product, 300, async |_| {
        let _: String = site.ask(&redis::cmd("FLUSHALL")).await;
    });
    assert_eq!(sold.await, 300);
    assert_eq!(site.stock(&product).await, (300, 300));
    eventually("the gate is empty", async || {
        site.tokens(&product).await.is_none_or(|tokens| tokens == 0).then_some(())
    })
    .await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: empties a Redis of its own, and holds live for a second"]
async fn what_is_pinned_stays_taken_while_redis_forgets_everything() {
    let settings = [&BUSY[..], &[("inventory.hold_ttl_seconds", "1"), ("inventory.unpin_seconds_min", "1")]].concat();
    let site = Site::start_on(own_servers("pinflush").await, &settings).await;
    let product = site.product(2).await;
    let attempt = Uuid::now_v7();
    let paid = site.hold_one(&product).await.unwrap().hold_id;
    site.pin(&paid, attempt).await.unwrap();
    // The other unit expires and is bought again and again meanwhile.
    let mut bought = 0;
    eventually("others have bought three times", async || {
        let _: String = site.ask(&redis::cmd("FLUSHALL")).await;
        bought += usize::from(site.hold_one(&product).await.is_ok());
        assert_eq!(site.get_hold(&paid).await.unwrap().state(), HoldState::Pinned);
        site.stock(&product).await;
        (bought >= 3).then_some(())
    })
    .await;
    let [_, holds] = site.gate_keys(&product.id);
    let score = async || {
        let score: Option<String> = site.ask(redis::cmd("ZSCORE").arg(&holds).arg(format!("{paid}:1"))).await;
        drop(site.hold_one(&product).await);
        score
    };
    let pinned = async || (score().await.as_deref() == Some("inf")).then_some(());
    eventually("the gate knows that it is pinned", pinned).await;
    site.unpin(&paid, attempt).await.unwrap();
    let unpinned = async || (score().await.as_deref() != Some("inf")).then_some(());
    eventually("the gate has an end for it", unpinned).await;
    eventually("both units are on sale", async || site.hold_lines(&[(&product, 2)]).await.ok()).await;
    assert_eq!(site.get_hold(&paid).await.unwrap().state(), HoldState::Expired);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: kills a Redis of its own"]
async fn losing_redis_in_mid_sale_is_harmless() {
    let servers = own_servers("kill").await;
    let site = Site::start_on(servers, &BUSY).await;
    let product = site.product(300).await;
    let kill = async |bought| match bought {
        5 => servers.kill(Server::Redis).await.unwrap(),
        10 => servers.restart(Server::Redis).await.unwrap(),
        _ => {}
    };
    assert_eq!(buy_all(&site, &product, 300, kill).await, 300);
    servers.restart(Server::Redis).await.unwrap();
    assert_eq!(site.stock(&product).await, (300, 300));
    assert_eq!(code(&site.hold_one(&product).await), "OUT_OF_STOCK");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: counts the deadlocks of a database of its own in many rounds"]
async fn holds_of_many_products_in_any_order_never_deadlock() {
    let site = Site::start_on(own_servers("deadlock").await, &BUSY).await;
    let products = join_all((0..5).map(|_| site.product(60))).await;
    let database = "select deadlocks from pg_stat_database where datname = current_database()";
    let before = site.number(database).await;
    let work = join_all((0..16).map(|worker: usize| {
        let (site, products) = (&site, &products);
        async move {
            for round in 0..8 {
                let first = &products[(worker + round) % 5];
                let second = &products[(worker * 2 + round * 3 + 1) % 5];
                let mut lines = vec![(first, 1)];
                if first.id != second.id {
                    lines.push((second, 1));
                }
                let held = site.hold_lines(&lines).await;
                let Ok(hold) = held else {
                    assert_eq!(code(&held), "OUT_OF_STOCK");
                    continue;
                };
                match (worker + round) % 3 {
                    0 => drop(site.release(&hold.hold_id).await.unwrap()),
                    1 => drop(site.confirm(&hold.hold_id).await.unwrap()),
                    _ => {}
                }
            }
        }
    }));
    work.await;
    assert_eq!(site.number(database).await, before);
    for product in &products {
        site.stock(product).await;
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: holds of two replicas end after three seconds, again and again"]
async fn replicas_that_sweep_and_sell_on_share_one_stock() {
    let settings = [&BUSY[..], &[("inventory.hold_ttl_seconds", "3")]].concat();
    let first = Site::start_with(&settings).await;
    let second = first.replica_with(&settings).await;
    let product = first.product(60).await;
    let sites = [&first, &second];
    let mut bought = 0;
    eventually("each unit is held twice", async || {
        let more = join_all((0..8).map(|n| sites[n % 2].hold_one(&product))).await;
        bought += more.iter().filter(|hold| hold.is_ok()).count();
        first.stock(&product).await;
        (bought >= 120).then_some(())
    })
    .await;
    eventually("all is swept", async || (first.stock(&product).await == (60, 0)).then_some(())).await;
    second.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: 50 races of a hold and its release"]
async fn holds_racing_their_own_releases_leave_nothing_behind() {
    let site = Site::start_with(&BUSY).await;
    let product = site.product(50).await;
    let races = join_all((0..50).map(|_| async {
        let (hold, lines) = (Uuid::now_v7(), [(&product, 1)]);
        let (held, released) =
            tokio::join!(site.hold(hold, Uuid::now_v7(), &lines), async { site.release(&hold.to_string()).await });
        (code(&held), code(&released))
    }));
    for (held, released) in races.await {
        assert!(["OK", "HOLD_ALREADY_RELEASED"].contains(&held.as_str()), "{held}");
        assert_eq!(released, "OK");
    }
    assert_eq!(site.stock(&product).await, (50, 0));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: 30 races of a pin and its unpin"]
async fn pins_racing_their_own_ends_leave_nothing_pinned() {
    let site = Site::start_with(&BUSY).await;
    let product = site.product(30).await;
    let races = join_all((0..30).map(|_| async {
        let (hold, attempt) = (site.hold_one(&product).await.unwrap().hold_id, Uuid::now_v7());
        let (pinned, unpinned) = tokio::join!(site.pin(&hold, attempt), site.unpin(&hold, attempt));
        assert_eq!(code(&unpinned), "OK");
        assert!(["OK", "PAYMENT_IN_PROGRESS"].contains(&code(&pinned).as_str()));
        assert_eq!(site.get_hold(&hold).await.unwrap().state(), HoldState::Held);
        assert_eq!(code(&site.pin(&hold, attempt).await), "PAYMENT_IN_PROGRESS");
    }));
    races.await;
    site.stop().await;
}

/// The sweepers of two replicas run all the time.
const RACING: [(&str, &str); 4] = [
    ("inventory.hold_ttl_seconds", "1"),
    ("inventory.sweep_period_ms", "5"),
    ("inventory.gate.check_period_ms", "300"),
    ("inventory.gate.rebuild_pause_ms", "200"),
];
const WAVES: usize = 4;
const ROUNDS: usize = 50;
/// Between two rounds of a wave, so that each has the machine for its instant.
const STAGGER_MS: i64 = 30;

/// Milliseconds until the hold's time is up; negative after it.
fn left_ms(hold: &Hold) -> i64 {
    let expires_at = hold.expires_at.as_ref().unwrap();
    expires_at.seconds * 1000 + i64::from(expires_at.nanos) / 1_000_000 - Utc::now().timestamp_millis()
}

async fn sleep_ms(ms: i64) {
    tokio::time::sleep(Duration::from_millis(u64::try_from(ms).unwrap_or(0))).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: 200 races of a payment with the end of its hold"]
async fn a_pin_at_the_last_instant_is_kept_or_refused() {
    let site = Site::start_with(&RACING).await;
    let rivals = site.replica_with(&RACING).await;
    let (mut pinned, mut expired, mut outbid) = (Vec::new(), 0, 0);
    for _ in 0..WAVES {
        let mut products = Vec::new();
        for _ in 0..ROUNDS {
            products.push(site.product(1).await);
        }
        let rounds = join_all((0_i64..).zip(products).map(|(round, product)| {
            let (site, rivals) = (&site, &rivals);
            async move {
                sleep_ms(round * STAGGER_MS).await;
                // From well before the end of its time to just after it.
                race(site, rivals, product, round % 20 * 3 - 50).await
            }
        }));
        for round in rounds.await {
            match round {
                Race::Pinned { hold, product } => pinned.push((hold, product)),
                Race::Expired { outbid: by_rival } => {
                    expired += 1;
                    outbid += usize::from(by_rival);
                }
            }
        }
    }
    println!("{} pinned, {expired} expired, {outbid} of these to a rival", pinned.len());
    assert_eq!(pinned.len() + expired, WAVES * ROUNDS);

    // Long after their time, with everybody still trying.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (hold, product) in &pinned {
        assert_eq!(code(&rivals.hold_one(product).await), "OUT_OF_STOCK");
        assert_eq!(site.get_hold(hold).await.unwrap().state(), HoldState::Pinned);
        assert_eq!(site.stock(product).await, (1, 1));
    }
    rivals.stop().await;
    site.stop().await;
}

enum Race {
    Pinned { hold: String, product: Product },
    Expired { outbid: bool },
}

/// One hold, its payment some milliseconds `off` the end of its time, and a rival who waits for just that.
async fn race(site: &Site, rivals: &Site, product: Product, off: i64) -> Race {
    let (hold, attempt) = (site.hold_one(&product).await.unwrap(), Uuid::now_v7());
    let pay = async {
        sleep_ms(left_ms(&hold) + off).await;
        site.pin(&hold.hold_id, attempt).await
    };
    let outbid = async {
        sleep_ms(left_ms(&hold) - 10).await;
        while left_ms(&hold) > -60 {
            if rivals.hold_one(&product).await.is_ok() {
                return true;
            }
        }
        false
    };
    let (paid, outbid) = tokio::join!(pay, outbid);
    let state = site.get_hold(&hold.hold_id).await.unwrap().state();
    match code(&paid).as_str() {
        "OK" => {
            assert!(!outbid, "a rival has what is pinned");
            assert_eq!(state, HoldState::Pinned);
            Race::Pinned { hold: hold.hold_id, product }
        }
        "HOLD_EXPIRED" => {
            assert_eq!(state, HoldState::Expired);
            Race::Expired { outbid }
        }
        other => panic!("{other}"),
    }
}
