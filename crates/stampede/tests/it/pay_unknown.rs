//! A provider that takes its time, or takes the money and then says nothing to anybody: the buyer may try again, it is undone, or
//! a person has to look.

use crate::ledger::Ledger;
use crate::payer::Payer;
use crate::payer::Provider;
use crate::site::system;
use chrono::{DateTime, Utc};
use sandbox::Fakes;
use serde_json::json;
use testkit::{Client, Product, Site, eventually, fresh_key};

use crate::ledger::Units;
use crate::payer::{Agreed, misbehaves, won};

/// A site with a pretended provider and a pretended Slack of its own, which can be made to misbehave.
async fn start(more: &[(&str, &str)]) -> (Site, Fakes) {
    let fakes = Fakes::start().await.expect("the provider starts");
    let (checkout, slack) = (format!("{}/checkout", fakes.url()), format!("{}/slack/services/T/B/X", fakes.url()));
    let own = [
        ("payment.naverpay.url", fakes.url()),
        ("payment.naverpay.checkout_url", &checkout),
        ("notification_hub.slack.url", &slack),
        ("payment.approve_wait_ms", "1000"),
    ];
    (system().settings(&[&own, more].concat()).start().await, fakes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_find_out_about_alerts_operators_and_is_settled_when_the_provider_talks_again() {
    let (site, fakes) = start(&[("payment.timeouts.review_after_seconds", "3")]).await;
    let (product, buyer) = (site.product(1).await, site.buyer().await);
    let agreed = buyer.agrees(&site, &product).await;
    misbehaves(&fakes, &json!({ "lostAfter": 1.0, "lostQuery": 1.0 })).await;
    let told = buyer.approve(&agreed).await.expect(202);
    let location = format!("/api/v1/payments/{}", agreed.payment);
    assert_eq!(told.header("location"), Some(location.as_str()), "{told}");
    buyer.sees_payment(&agreed.payment, "NEEDS_REVIEW").await;
    eventually("operators are alerted", async || {
        let messages = site.fakes("/slack/messages").await;
        messages.to_string().contains(&agreed.payment).then_some(())
    })
    .await;
    // Its order waits with it, and its unit is nobody else's.
    assert_eq!(site.units(&product).await, Units { on_hand: 1, held: 1 });

    misbehaves(&fakes, &json!({})).await;
    site.admin().post(&format!("/admin/payments/{}/sync", agreed.payment), &json!({})).await.expect(202);
    buyer.sees_payment(&agreed.payment, "PAID").await;
    buyer.sees_order(&agreed.order, "PAID").await;
    site.assert_consistent().await;
    assert_eq!(site.kept_by_provider(&agreed.payment).await, agreed.amount);
    site.stop().await;
    fakes.stop().await.expect("the provider ends");
}

pub const SOON_UNDONE: [(&str, &str); 1] = [("payment.timeouts.undo_after_seconds", "1")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stays_unclear_beyond_the_orders_time_is_undone_and_its_unit_is_on_sale_again() {
    let (site, fakes) = start(&SOON_UNDONE).await;
    let unclear = Unclear::begins(&site, &fakes).await;
    assert_eq!(site.kept_by_provider(&unclear.agreed.payment).await, unclear.agreed.amount, "the money was taken");
    unclear.time_is_up(&site).await;
    unclear.is_undone(&site, &fakes).await;
    site.stop().await;
    fakes.stop().await.expect("the provider ends");
}

/// A payment whose money was taken, of which the provider says nothing.
pub struct Unclear {
    buyer: Client,
    product: Product,
    agreed: Agreed,
}

impl Unclear {
    pub async fn begins(site: &Site, fakes: &Fakes) -> Unclear {
        let (product, buyer) = (site.product(1).await, site.buyer().await);
        misbehaves(fakes, &json!({ "lostAfter": 1.0, "lostQuery": 1.0 })).await;
        let agreed = buyer.agrees(site, &product).await;
        buyer.approve(&agreed).await.expect(202);
        Unclear { buyer, product, agreed }
    }

    /// From here on it is to be undone.
    pub async fn time_is_up(&self, site: &Site) {
        site.time_is_up(&self.agreed.order).await;
    }

    /// Neither money nor unit is left behind, and the provider talks again in the end.
    pub async fn is_undone(&self, site: &Site, fakes: &Fakes) {
        let Unclear { buyer, product, agreed } = self;
        // Told to undo it, the provider does, though its answer is lost as well.
        let is_back = async || (site.kept_by_provider(&agreed.payment).await == 0).then_some(());
        eventually("the money has gone back", is_back).await;
        misbehaves(fakes, &json!({})).await;
        site.admin().post(&format!("/admin/payments/{}/sync", agreed.payment), &json!({})).await.expect(202);
        buyer.sees_payment(&agreed.payment, "FAILED").await;
        buyer.sees_order(&agreed.order, "EXPIRED").await;
        eventually("its unit is on sale", async || {
            (site.units(product).await == Units { on_hand: 1, held: 0 }).then_some(())
        })
        .await;
        site.assert_consistent().await;
        assert_eq!(site.kept_by_provider(&agreed.payment).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_declined_when_the_orders_time_is_up_may_try_another_card() {
    let (site, fakes) = start(&[("payment.approve_wait_ms", "60000")]).await;
    misbehaves(&fakes, &json!({ "lateMs": 10 })).await;
    let (product, buyer) = (site.product_at(1, 10_347).await, site.buyer().await);
    let agreed = buyer.agrees(&site, &product).await;
    let mut pause = site.pause("payment", "payment.after_pin");
    let ending = async {
        pause.reached().await;
        site.time_is_up(&agreed.order).await;
        pause.resume();
    };
    let (told, ()) = tokio::join!(buyer.approve(&agreed), ending);
    told.refused(402, "PAYMENT_DECLINED");
    let payment = buyer.payment(&agreed.payment).await;
    assert_eq!(payment["status"], "PENDING", "{payment}");
    let expires: DateTime<Utc> = payment["expiresAt"].as_str().expect("a time").parse().expect("a time");
    assert!(expires > Utc::now(), "{payment}");
    buyer.charges(agreed.amount).await;
    let by_points = buyer.prepare_by("POINTS", &fresh_key(), &agreed.order, agreed.amount).await.expect(201).json();
    let body = json!({ "amount": won(agreed.amount) });
    buyer.approve_with(by_points["paymentId"].as_str().expect("an id"), body).await.expect(200);
    buyer.sees_order(&agreed.order, "PAID").await;
    site.assert_consistent().await;
    assert_eq!(site.units(&product).await, Units { on_hand: 0, held: 0 });
    assert_eq!(site.kept_by_provider(&agreed.payment).await, 0);
    site.stop().await;
    fakes.stop().await.expect("the provider ends");
}
