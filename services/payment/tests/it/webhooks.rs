//! A webhook is accepted only when it is signed, and then only as a hint.

use chrono::Utc;
use client::Answer;
use reqwest::Method;
use uuid::Uuid;

use crate::cases::{Case, approved, cases, signed_at};
use crate::shop::{AMOUNT, Shop, approving};

async fn send(shop: &Shop, provider: &str, case: &Case) -> Answer {
    let client = shop.site.anyone();
    let mut request = client.request(Method::POST, &format!("/webhooks/pg/{provider}")).body(case.body.clone());
    for (name, value) in &case.headers {
        request = request.header(*name, value.as_slice());
    }
    client.send(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_webhook_stores_nothing_and_a_signed_one_is_stored_once() {
    let shop = Shop::start().await;
    let mut stored = 0;
    for case in cases(Utc::now(), &Uuid::now_v7().to_string()) {
        // Twice, as providers repeat them.
        for _ in 0..2 {
            let answer = send(&shop, "naverpay", &case).await;
            match case.is_good {
                true => assert_eq!(answer.status, 200, "{}: {answer}", case.name),
                false => drop(answer.refused(401, "INVALID_SIGNATURE")),
            }
        }
        stored += i64::from(case.is_good);
        let rows = shop.site.number("select count(*) from {payment}.psp_webhooks").await;
        assert_eq!(rows, stored, "{}: only signed webhooks are stored, and once", case.name);
    }
    let good = signed_at("good", Utc::now(), "msg_good", b"{}");
    send(&shop, "kakaopay", &good).await.refused(404, "NOT_FOUND");
    let large = signed_at("large", Utc::now(), "msg_large", &[b' '; 64 * 1024 + 1]);
    send(&shop, "naverpay", &large).await.expect(413);
    let largest = signed_at("largest", Utc::now(), "msg_largest", &[0xff; 64 * 1024]);
    send(&shop, "naverpay", &largest).await.expect(200);
    assert_eq!(shop.site.number("select count(*) from {payment}.psp_webhooks").await, stored + 1);
    shop.stop().await;
}

/// Three payments that were given up. Of two of them the provider says that it has captured the money.
#[tokio::test(flavor = "multi_thread")]
async fn a_hint_makes_the_resolver_ask_and_the_providers_answer_counts() {
    let shop = Shop::start().await;
    let buyer = shop.site.buyer().await;
    let mut given_up = Vec::new();
    for at in ["payment.after_answer", "payment.after_pin", "payment.after_answer"] {
        let authorised = shop.authorised(&buyer, AMOUNT).await;
        let mut pause = shop.site.pause("payment", at);
        let dying = approving(&buyer, &authorised);
        pause.reached().await;
        std::mem::forget(pause);
        dying.abort();
        shop.update(&authorised.payment, "status = 'FAILED', ask_at = null").await;
        given_up.push(authorised.payment);
    }
    let [captured, untaken, unsigned] = &given_up[..] else { panic!("three") };
    let hint = |payment: &str, id| signed_at(id, Utc::now(), id, &approved(payment));
    let forged = hint(unsigned, "msg_c");
    let forged = Case { headers: forged.headers[..2].to_vec(), ..forged };
    send(&shop, "naverpay", &forged).await.refused(401, "INVALID_SIGNATURE");
    let nobody = Uuid::now_v7().to_string();
    for case in [hint(captured, "msg_a"), hint(untaken, "msg_b"), hint(&nobody, "msg_d")] {
        send(&shop, "naverpay", &case).await.expect(200);
    }
    shop.until_status(captured, "PAID").await;
    let asked = format!("select count(*) from {{payment}}.payments where id = '{untaken}' and asked > 0");
    shop.site.until_number(&asked, 1).await;
    assert_eq!(shop.status(untaken).await, "FAILED", "the provider knows no capture: the hint alone pays nothing");
    assert_eq!(shop.count(unsigned, "status = 'FAILED' and asked = 0").await, 1, "nobody asks because of a forged one");
    shop.stop().await;
}
