//! A provider's call is believed only when it is signed, and then only as a hint.

use chrono::Utc;
use reqwest::StatusCode;
use uuid::Uuid;

use crate::cases::{Case, approved, cases, signed_at};
use crate::site::{Site, until};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forged_stores_nothing_and_what_is_signed_is_stored_once() {
    let site = Site::start("webhooks").await;
    let mut stored = 0;
    for case in cases(Utc::now(), &Uuid::now_v7().to_string()) {
        let expected = if case.is_good { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        // Repeated as providers do.
        for _ in 0..2 {
            let (status, body) = site.webhook("naverpay", &case).await;
            assert_eq!(status, expected, "{}: {body}", case.name);
            assert_eq!(body.contains("INVALID_SIGNATURE"), !case.is_good, "{}: {body}", case.name);
        }
        stored += i64::from(case.is_good);
        assert_eq!(site.number("select count(*) from psp_webhooks").await, stored, "{}", case.name);
    }
    let good = signed_at("good", Utc::now(), "msg_good", b"{}");
    assert_eq!(site.webhook("kakaopay", &good).await.0, StatusCode::NOT_FOUND);
    let large = signed_at("large", Utc::now(), "msg_large", &[b' '; 64 * 1024 + 1]);
    assert_eq!(site.webhook("naverpay", &large).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let largest = signed_at("largest", Utc::now(), "msg_largest", &[0xff; 64 * 1024]);
    assert_eq!(site.webhook("naverpay", &largest).await.0, StatusCode::OK);
    assert_eq!(site.number("select count(*) from psp_webhooks").await, stored + 1);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_makes_the_provider_be_asked_and_its_answer_counts() {
    let site = Site::start("hints").await;
    let (taken, untaken, unsigned) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    for id in [taken, untaken, unsigned] {
        let pg = if id == untaken { "P1".to_owned() } else { site.capture(&id.to_string(), 1_000).await };
        site.payment(id, "FAILED", &pg).await;
    }
    let hint = |id: Uuid, name| signed_at(name, Utc::now(), name, &approved(&id.to_string()));
    let forged = hint(unsigned, "msg_c");
    let forged = Case { headers: forged.headers[..2].to_vec(), ..forged };
    assert_eq!(site.webhook("naverpay", &forged).await.0, StatusCode::UNAUTHORIZED);
    for case in [hint(taken, "msg_a"), hint(untaken, "msg_b"), hint(Uuid::now_v7(), "msg_d")] {
        assert_eq!(site.webhook("naverpay", &case).await.0, StatusCode::OK);
    }
    let count = async |id: Uuid, what: &str| {
        site.number(&format!("select count(*) from payments where id = '{id}' and {what}")).await
    };
    until("the money is there", async || count(taken, "status = 'PAID'").await == 1).await;
    until("it was asked", async || count(untaken, "asked > 0").await == 1).await;
    assert_eq!(count(untaken, "status = 'FAILED'").await, 1, "the provider knows nothing of it");
    assert_eq!(count(unsigned, "status = 'FAILED' and asked = 0").await, 1);
    site.stop().await;
}
