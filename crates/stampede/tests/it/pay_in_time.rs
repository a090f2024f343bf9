//! Approvals as an order's time runs out: they charge nothing, or they pay.

use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use testkit::{Answer, Client, Product, Site, eventually, fresh_key, text};
use tokio::sync::Semaphore;

use crate::ledger::{Ledger, Units};
use crate::payer::{Agreed, Payer, Provider, authorise};
use crate::site::system;

/// Sweepers that look ten times a second: what they leave alone for as long as another hold is swept, they leave alone.
const SWEPT_SOON: [(&str, &str); 2] = [("inventory.sweep_period_ms", "100"), ("order.expire_sweep_ms", "100")];

/// Ends the time of `order`, and of an order of somebody else, and waits until the sweepers have taken the other one.
async fn time_is_up_and_swept(site: &Site, order: &str) {
    let (product, other) = (site.product(1).await, site.buyer().await);
    let (swept, _) = other.orders(&product).await;
    site.time_is_up(order).await;
    site.time_is_up(&swept).await;
    other.sees_order(&swept, "EXPIRED").await;
    let live = format!("select count(*) from {{inventory}}.holds where hold_id = '{swept}' and state = 'HELD'");
    site.until_number(&live, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_that_has_pinned_its_units_pays_although_the_time_is_up_meanwhile() {
    let site = system().settings(&SWEPT_SOON).start().await;
    let (product, buyer) = (site.product(1).await, site.buyer().await);
    let agreed = buyer.agrees(&site, &product).await;
    let mut pause = site.pause("payment", "payment.after_pin");
    let ending = async {
        pause.reached().await;
        time_is_up_and_swept(&site, &agreed.order).await;
        pause.resume();
    };
    let (told, ()) = tokio::join!(buyer.approve(&agreed), ending);
    assert_eq!(told.expect(200).json()["status"], "PAID");
    buyer.sees_order(&agreed.order, "PAID").await;
    site.assert_consistent().await;
    assert_eq!(site.units(&product).await, Units { on_hand: 0, held: 0 });
    assert_eq!(site.kept_by_provider(&agreed.payment).await, agreed.amount);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_that_begins_or_pins_when_the_time_is_up_charges_nothing() {
    let site = system().settings(&SWEPT_SOON).start().await;
    let (product, buyer) = (site.product(2).await, site.buyer().await);
    let late = buyer.agrees(&site, &product).await;
    time_is_up_and_swept(&site, &late.order).await;
    buyer.approve(&late).await.refused(410, "HOLD_EXPIRED");

    // The order is reserved in time, and its units are not pinned in time.
    let unpinned = buyer.agrees(&site, &product).await;
    let mut pause = site.pause("payment", "payment.before_pin");
    let ending = async {
        pause.reached().await;
        let reserved = format!("id = '{}' and approving_attempt_id is not null", unpinned.order);
        site.until_number(&format!("select count(*) from {{order}}.orders where {reserved}"), 1).await;
        time_is_up_and_swept(&site, &unpinned.order).await;
        pause.resume();
    };
    let (told, ()) = tokio::join!(buyer.approve(&unpinned), ending);
    told.refused(410, "HOLD_EXPIRED");
    for agreed in [&late, &unpinned] {
        assert_eq!(site.kept_by_provider(&agreed.payment).await, 0, "nothing is charged");
        buyer.sees_order(&agreed.order, "EXPIRED").await;
    }
    site.assert_consistent().await;
    assert_eq!(site.units(&product).await, Units { on_hand: 2, held: 0 });
    site.stop().await;
}

/// Hold and order last for four seconds, and each approval begins as close to their end as can be hit: a buyer who was too
/// late is earlier the next time, and one who was in time is later, however fast the machine is. Few agree at once, so that
/// their time does not run out while they wait for each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: a thousand approvals at the last instant"]
async fn approving_as_the_time_runs_out_either_charges_nothing_or_pays() {
    let brief = [
        ("inventory.hold_ttl_seconds", "4"),
        ("order.expire_sweep_ms", "200"),
        ("order.placements_per_minute", "100000"),
    ];
    let site = system().settings(&brief).start().await;
    let product = site.product(2 * ROUNDS).await;
    let buyers = site.buyers(BUYERS).await;
    let (agreeing, seen) = (Semaphore::new(3), Seen::default());
    let trying = buyers.iter().enumerate().map(async |(index, buyer)| {
        // How long before the end; each buyer moves in steps of its own.
        let (mut lead, step) = (Duration::from_millis(100), 1.2 + index as f64 / 50.0);
        while seen.is_to_go_on() {
            let agreed = {
                let _turn = agreeing.acquire().await.expect("never closed");
                eventually("it is agreed", async || agrees_in_time(&site, buyer, &product).await).await
            };
            let expires = &buyer.payment(&agreed.payment).await["expiresAt"];
            let expires: DateTime<Utc> = expires.as_str().expect("a time").parse().expect("a time");
            tokio::time::sleep((expires - lead - Utc::now()).to_std().unwrap_or_default()).await;
            if approves_or_is_late(&site, buyer, &agreed).await {
                seen.paid.fetch_add(1, Relaxed);
                lead = lead.div_f64(step);
            } else {
                seen.late.fetch_add(1, Relaxed);
                lead = lead.mul_f64(step).min(Duration::from_secs(4));
            }
        }
    });
    join_all(trying).await;
    let (paid, late) = (seen.paid.into_inner(), seen.late.into_inner());
    println!("{paid} paid, {late} were too late");
    assert!(paid > 0 && late > 0, "the instant was missed: {paid} paid, {late} were too late");
    eventually("every order is paid or expired", async || {
        let open = "select count(*) from {order}.orders where status in ('CREATED', 'PENDING_PAYMENT')";
        (site.number(open).await == 0).then_some(())
    })
    .await;
    site.assert_consistent().await;
    assert_eq!(site.units(&product).await, Units { on_hand: 2 * ROUNDS - paid, held: 0 });
}

/// Approvals at the last instant, and who makes them.
const ROUNDS: i64 = 1_000;
const BUYERS: usize = 40;

#[derive(Default)]
struct Seen {
    paid: AtomicI64,
    late: AtomicI64,
}

impl Seen {
    /// Until all rounds are over; as many again if only one of the two ends was seen by then.
    fn is_to_go_on(&self) -> bool {
        let (paid, late) = (self.paid.load(Relaxed), self.late.load(Relaxed));
        // What is under way comes on top, and there are units for all.
        paid + late < if paid > 0 && late > 0 { ROUNDS } else { 2 * ROUNDS - BUYERS as i64 }
    }
}

/// Orders and agrees, unless the machine is so busy that the order's time is up before that, or that of the order before it
/// is not yet.
async fn agrees_in_time(site: &Site, buyer: &Client, product: &Product) -> Option<Agreed> {
    let placed = buyer.order(&fresh_key(), product, 1).await;
    if is_too_late(&placed) || placed.status == 409 {
        return None;
    }
    let placed = placed.expect(201).json();
    let (order, amount) = (text(&placed["orderId"]), placed["totals"]["amount"]["amount"].as_i64().expect("an amount"));
    let prepared = buyer.prepare(&fresh_key(), &order, amount).await;
    if is_too_late(&prepared) {
        return None;
    }
    let payment = text(&prepared.expect(201).json()["paymentId"]);
    Some(Agreed { pg_payment: authorise(site, &payment, amount).await, order, payment, amount })
}

/// Whether it was paid. What is told is what is so at the provider.
async fn approves_or_is_late(site: &Site, buyer: &Client, agreed: &Agreed) -> bool {
    let told = buyer.approve(agreed).await;
    let is_paid = match told.status.as_u16() {
        // Not known within the time that a client waits.
        202 => {
            eventually("the payment is settled", async || {
                let status = buyer.payment(&agreed.payment).await["status"].clone();
                ["PAID", "FAILED", "REFUNDED"].contains(&status.as_str()?).then(|| status == "PAID")
            })
            .await
        }
        200 => true,
        _ => {
            assert!(is_too_late(&told), "{told}");
            false
        }
    };
    assert_eq!(site.kept_by_provider(&agreed.payment).await, if is_paid { agreed.amount } else { 0 }, "{told}");
    is_paid
}

fn is_too_late(answer: &Answer) -> bool {
    if answer.status == 410 {
        answer.refused(410, "HOLD_EXPIRED");
    }
    answer.status == 410
}
