//! Ids in paths, and keys: garbage, other kinds, other people's.

use crate::ledger::Ledger;
use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::json;
use testkit::{Client, fresh_key, line};
use uuid::Uuid;

use super::Trial;

/// Every route with an id in its path: `{}` is its place.
fn routes(trial: &Trial) -> Vec<(Method, String, Client)> {
    let route = |method, path: &str, by: &Client| (method, path.to_owned(), by.clone());
    let of_notification = format!("/notifications/{}/deliveries/{{}}/retry", trial.notification);
    let of_delivery = format!("/notifications/{{}}/deliveries/{}/retry", trial.delivery);
    vec![
        route(Method::GET, "/products/{}", &trial.buyer),
        route(Method::PATCH, "/admin/products/{}", &trial.admin),
        route(Method::POST, "/admin/products/{}/stock-adjust", &trial.admin),
        route(Method::GET, "/admin/products/{}/stock-audits", &trial.admin),
        route(Method::GET, "/concerts/{}", &trial.buyer),
        route(Method::GET, "/concerts/{}/seats", &trial.buyer),
        route(Method::POST, "/admin/concerts/{}/seats:bulk", &trial.admin),
        route(Method::GET, "/reservations/{}", &trial.buyer),
        route(Method::DELETE, "/reservations/{}", &trial.buyer),
        route(Method::GET, "/orders/{}", &trial.buyer),
        route(Method::POST, "/orders/{}/cancel", &trial.buyer),
        route(Method::GET, "/payments/{}", &trial.buyer),
        route(Method::GET, "/payments/{}/attempts", &trial.buyer),
        route(Method::POST, "/payments/{}/approve", &trial.buyer),
        route(Method::POST, "/payments/{}/cancel", &trial.buyer),
        route(Method::POST, "/admin/payments/{}/sync", &trial.admin),
        route(Method::GET, "/coupons/{}", &trial.buyer),
        route(Method::POST, "/coupons/{}/issue", &trial.buyer),
        route(Method::GET, "/coupons/{}/issues/me", &trial.buyer),
        route(Method::PATCH, "/admin/coupons/{}", &trial.admin),
        route(Method::POST, "/admin/coupons/{}/reconcile", &trial.admin),
        route(Method::GET, "/notifications/{}", &trial.buyer),
        route(Method::POST, &of_notification, &trial.admin),
        route(Method::POST, &of_delivery, &trial.admin),
        route(Method::DELETE, "/admin/api-keys/{}", &trial.admin),
        route(Method::GET, "/admin/webhook-endpoints/{}/secret", &trial.admin),
        route(Method::POST, "/admin/webhook-endpoints/{}/rotate-secret", &trial.admin),
        route(Method::DELETE, "/admin/webhook-endpoints/{}", &trial.admin),
    ]
}

fn body(path: &str) -> serde_json::Value {
    match path {
        path if path.ends_with("/stock-adjust") => json!({ "delta": 1, "reason": "counted" }),
        path if path.ends_with("/seats:bulk") => {
            json!({ "sku": "s", "name": "s", "price": { "amount": 1, "currency": "KRW" }, "labels": ["A-1"] })
        }
        path if path.ends_with("/approve") => {
            json!({ "pgPaymentId": "agreed", "amount": { "amount": 1, "currency": "KRW" } })
        }
        path if path.ends_with("/cancel") => json!({ "reason": "changed my mind" }),
        _ => json!({ "name": "Other" }),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_are_none_or_name_something_else_are_refused_everywhere() {
    let mut trial = Trial::start().await;
    let own = trial.order.clone();
    let mut ids: Vec<String> = [
        "1",
        "-1",
        "null",
        "undefined",
        "x",
        "%20",
        "%00",
        "%2F",
        "..%2F..%2Fetc%2Fpasswd",
        "%2e%2e",
        "%0d%0aX:%20y",
        "'%20or%20'1'='1",
        "%ff",
        "%F0%9F%92%A9",
        "*",
        "a%2Fb",
        "%7B%7D",
        "9223372036854775808",
    ]
    .map(str::to_owned)
    .into();
    ids.extend([
        Uuid::nil().to_string(),
        Uuid::max().to_string(),
        Uuid::now_v7().to_string(),
        format!("%7B{own}%7D"),
        own.replace('-', ""),
        format!("{own}%00"),
        format!("{own}%20"),
        format!("urn:uuid:{own}"),
        own[..35].to_owned(),
        "0".repeat(36),
        "a".repeat(5000),
    ]);
    // Ids of other kinds: each is right in one place and wrong in all others.
    let of_kind = [
        ("orders", &trial.order),
        ("products", &trial.product.id),
        ("notifications", &trial.notification),
        ("deliveries", &trial.delivery),
    ];
    let of_kind = of_kind.map(|(kind, id)| (kind, id.clone()));
    for (method, path, by) in routes(&trial) {
        let place =
            path.split("/{}").next().and_then(|before| before.rsplit('/').next()).expect("before the id").to_owned();
        let others = of_kind.iter().filter(|(kind, _)| *kind != place).map(|(_, id)| id.clone());
        for id in ids.iter().cloned().chain(others) {
            let path = path.replace("{}", &id);
            let mut request =
                by.request(method.clone(), &path).header("Idempotency-Key", fresh_key()).header("If-Match", "*");
            if method != Method::GET {
                request = request.json(&body(&path));
            }
            let answer = trial.refuse(&id, &by, request).await;
            assert!([400, 404, 414].contains(&answer.status.as_u16()), "{answer}");
        }
    }
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_peoples_things_are_not_there() {
    let mut trial = Trial::start().await;
    let (stranger, buyer) = (trial.stranger.clone(), trial.buyer.clone());
    let order = trial.order.clone();
    for (method, path) in [(Method::GET, format!("/orders/{order}")), (Method::POST, format!("/orders/{order}/cancel"))]
    {
        let request = stranger.request(method, &path).json(&json!({}));
        trial.refuse_with(&path, &stranger, request, 404, "ORDER_NOT_FOUND").await;
    }
    for (method, path) in [
        (Method::GET, format!("/payments/{}", trial.payment)),
        (Method::GET, format!("/payments/{}/attempts", trial.payment)),
        (Method::POST, format!("/payments/{}/approve", trial.payment)),
        (Method::POST, format!("/payments/{}/cancel", trial.payment)),
    ] {
        let request = stranger.request(method.clone(), &path).header("Idempotency-Key", fresh_key());
        let request = if method == Method::POST { request.json(&body(&path)) } else { request };
        trial.refuse_with(&path, &stranger, request, 404, "PAYMENT_NOT_FOUND").await;
    }
    let path = format!("/notifications/{}", trial.notification);
    let request = stranger.request(Method::GET, &path);
    trial.refuse_with(&path, &stranger, request, 404, "NOTIFICATION_NOT_FOUND").await;
    // Lists are one's own, whatever is asked for, and headers that claim to be somebody are only headers.
    for path in ["/orders".to_owned(), "/notifications".to_owned(), format!("/notifications?userId={}", buyer.user_id)]
    {
        let request =
            stranger.request(Method::GET, &path).header("X-User-Id", &buyer.user_id).header("X-Role", "ADMIN");
        let page = stranger.send(request).await.expect(200).json();
        assert_eq!(page["items"], json!([]), "{path}");
    }
    let own = buyer.get("/orders").await.expect(200).json();
    assert_eq!(own["items"].as_array().map(Vec::len), Some(1));
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_must_be_there_once_and_be_short_visible_ascii() {
    let mut trial = Trial::start().await;
    let adjust = format!("/admin/products/{}/stock-adjust", trial.product.id);
    let placing = json!({ "items": [line(&trial.product, 1)] });
    let won = json!({ "amount": 1000, "currency": "KRW" });
    let prepare = json!({ "orderId": trial.order, "method": "NAVERPAY", "amount": won });
    let doors = [
        (trial.buyer.clone(), "/payments/prepare".to_owned(), prepare),
        (trial.buyer.clone(), "/points/charge".to_owned(), json!({ "amount": won })),
        (trial.buyer.clone(), "/orders".to_owned(), placing.clone()),
        (trial.admin.clone(), "/admin/api-keys".to_owned(), json!({ "client": "a", "scopes": ["notifications:read"] })),
        (
            trial.admin.clone(),
            "/notifications".to_owned(),
            json!({ "type": "INCIDENT", "channels": [{ "channel": "SLACK" }], "subject": "Down", "body": "All of it." }),
        ),
        (trial.admin.clone(), adjust, json!({ "delta": 1, "reason": "counted" })),
    ];
    for (by, path, body) in doors {
        let request = by.request(Method::POST, &path).json(&body);
        trial.refuse_with(&format!("{path}: no key"), &by, request, 400, "IDEMPOTENCY_KEY_REQUIRED").await;
        let keys: [&[u8]; 9] =
            [b"", b"\"\"", b"a b", b"a\tb", "열쇠".as_bytes(), b"\xff\xfe", b"a\"b", b"\"a", &[b'k'; 256]];
        for key in keys {
            let value = HeaderValue::from_bytes(key).expect("HTTP can carry it");
            let request = by.request(Method::POST, &path).header("Idempotency-Key", value).json(&body);
            let what = format!("{path}: key {:?}", String::from_utf8_lossy(&key[..key.len().min(20)]));
            let answer = trial.refuse(&what, &by, request).await;
            assert_eq!(answer.status, 400, "{answer}");
        }
        let twice = by.request(Method::POST, &path).header("Idempotency-Key", "a").header("Idempotency-Key", "b");
        trial.refuse_with(&format!("{path}: two keys"), &by, twice.json(&body), 400, "VALIDATION_ERROR").await;
        let same = by.request(Method::POST, &path).header("Idempotency-Key", "a").header("Idempotency-Key", "a");
        trial.refuse_with(&format!("{path}: one key twice"), &by, same.json(&body), 400, "VALIDATION_ERROR").await;
    }
    let (buyer, product) = (trial.buyer.clone(), trial.product.clone());
    let (site, before) = (&trial.site, trial.site.number("select count(*) from {order}.orders").await);
    trial.site.settled().await;
    // At the edge of what is allowed, and it is a key like any other.
    for key in ["k", &"k".repeat(255), "~!@#$%^&*()_+{}|:<>?-=[]\\;',./", "../../etc/passwd"] {
        let first = buyer.order(key, &product, 1).await.expect(201);
        assert_eq!(buyer.order(key, &product, 1).await.expect(201).body, first.body);
    }
    assert_eq!(site.number("select count(*) from {order}.orders").await, before + 4);
}
