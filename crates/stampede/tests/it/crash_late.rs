//! The process dies while it deals with money that came too late, or that nobody wants any more.

use crate::site::{EXECUTABLE, system};
use sandbox::Fakes;
use testkit::eventually;

use crate::crash_points::{crashing, each};
use crate::pay_late::{LateMoney, SHORT_LIVED};
use crate::pay_unknown::{SOON_UNDONE, Unclear};

pub const LATE: [&str; 3] = ["payment.after_retake:1", "payment.after_late_promise:1", "mark_paid.after_commit:1"];
pub const UNDOING: [&str; 2] = ["payment.before_undo:1", "payment.after_undo:1"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: every point, each with restarts"]
async fn dying_over_money_that_came_too_late_pays_the_order_once_or_gives_it_back() {
    each(&LATE, die_over_late_money).await;
}

async fn die_over_late_money(point: &'static str) {
    let settings = [&SHORT_LIVED[..], &crashing(point)].concat();
    let site = system().settings(&settings).spawn(EXECUTABLE).await;
    println!("{point}: {}", site.log().display());
    let late = LateMoney::comes(&site).await;
    late.ask(&site).await;
    eventually(&format!("{point} is passed"), async || site.is_dead().await.then_some(())).await;
    site.revive(&[("host.crash_point", "")]).await;
    late.ask(&site).await;
    late.is_settled(&site).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: every point, each with restarts"]
async fn dying_while_an_approval_is_undone_leaves_neither_money_nor_unit_behind() {
    each(&UNDOING, die_while_undoing).await;
}

async fn die_while_undoing(point: &'static str) {
    let fakes = Fakes::start().await.expect("the provider starts");
    let own = [("payment.naverpay.url", fakes.url()), ("payment.approve_wait_ms", "1000")];
    let site = system().settings(&[&own, &SOON_UNDONE[..], &crashing(point)].concat()).spawn(EXECUTABLE).await;
    println!("{point}: {}", site.log().display());
    let unclear = Unclear::begins(&site, &fakes).await;
    unclear.time_is_up(&site).await;
    eventually(&format!("{point} is passed"), async || site.is_dead().await.then_some(())).await;
    site.revive(&[("host.crash_point", "")]).await;
    unclear.is_undone(&site, &fakes).await;
    site.stop().await;
    fakes.stop().await.expect("the provider ends");
}
