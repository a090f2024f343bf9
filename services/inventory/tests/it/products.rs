//! Products over HTTP: what shoppers see and what administrators change.

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::site::{Site, code, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_product_is_seen_by_its_next_reader() {
    let site = Site::start("change").await;
    let id = site.product(5).await;
    let path = format!("/products/{id}");
    let first = site.get(&path).await;
    assert_eq!((first.status, &first.json()["name"]), (StatusCode::OK, &json!("Sneaker")));
    let etag = first.headers["etag"].to_str().unwrap().to_owned();
    let unchanged = site.call(Method::GET, &path, &[("If-None-Match", &etag)], None).await;
    assert_eq!((unchanged.status, unchanged.text.as_str()), (StatusCode::NOT_MODIFIED, ""));

    let admin_path = format!("/admin/products/{id}");
    let change = json!({ "name": "Boot", "price": { "amount": 2000, "currency": "KRW" } });
    let changed = site.call(Method::PATCH, &admin_path, &[("If-Match", &etag)], Some(change.clone())).await;
    assert_eq!((changed.status, &changed.json()["version"]), (StatusCode::OK, &json!(2)));
    let outdated = site.call(Method::PATCH, &admin_path, &[("If-Match", &etag)], Some(change.clone())).await;
    assert_eq!(
        (outdated.status, &outdated.json()["code"]),
        (StatusCode::PRECONDITION_FAILED, &json!("VERSION_CONFLICT"))
    );
    let blind = site.call(Method::PATCH, &admin_path, &[], Some(change)).await;
    assert_eq!(blind.status, StatusCode::BAD_REQUEST);
    assert_eq!(site.get(&path).await.json()["name"], "Boot");

    // A reader that was slow put the old product back: the next one finds it out.
    let mut old = first.json();
    old.as_object_mut().unwrap().remove("stock");
    let client = redis::Client::open(crate::site::servers().await.redis_url()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let key = format!("{}product:{id}", site.namespace);
    let _: String = redis::cmd("SET").arg(key).arg(old.to_string()).query_async(&mut redis).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert_eq!(site.get(&path).await.json()["name"], "Boot");

    // Those who hold keep their price; the next buyer pays the new one.
    assert_eq!(site.hold_one(&id).await.unwrap().lines[0].unit_price, 2000);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_shows_what_is_there() {
    let site = Site::start("pages").await;
    assert_eq!(site.get("/products").await.json()["totalElements"], 0);
    let ids = [site.product(1).await, site.product(2).await, site.product(0).await];
    until("all are shown", async || site.get("/products").await.json()["totalElements"] == 3).await;
    let page = site.get("/products?page=0&size=2").await.json();
    assert_eq!((&page["totalPages"], page["content"].as_array().unwrap().len()), (&json!(2), 2));
    assert_eq!(page["content"][0]["productId"], ids[2].as_str());
    assert_eq!(page["content"][0]["stock"]["status"], "SOLD_OUT");
    let found = site.get("/products?q=%25&sort=-price").await.json();
    assert_eq!(found["totalElements"], 0, "a percent sign is no wildcard");
    assert_eq!(site.get("/products?q=neak&sort=price").await.json()["totalElements"], 3);
    for bad in ["size=0", "size=101", "page=-1", "page=9223372036854775807", "sort=evil", "x=1", "page=a"] {
        let answer = site.get(&format!("/products?{bad}")).await;
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (StatusCode::BAD_REQUEST, &json!("VALIDATION_ERROR")),
            "{bad}"
        );
    }
    assert_eq!(site.get(&format!("/products/{}", Uuid::now_v7())).await.status, StatusCode::NOT_FOUND);
    assert_eq!(site.get("/products/1").await.status, StatusCode::BAD_REQUEST);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_product_is_checked_before_it_is_made() {
    let site = Site::start("checks").await;
    let good = json!({ "sku": "A", "name": "N", "price": { "amount": 1, "currency": "KRW" }, "initialStock": 0 });
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    for bad in [
        with("sku", json!("")),
        with("name", json!("a\nb")),
        with("price", json!({ "amount": 0, "currency": "KRW" })),
        with("price", json!({ "amount": 1, "currency": "USD" })),
        with("initialStock", json!(-1)),
        with("initialStock", json!(1_000_000_001)),
        with("maxPerUser", json!(0)),
        with("owner", json!("me")),
    ] {
        let answer = site.call(Method::POST, "/admin/products", &[], Some(bad.clone())).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{bad}: {}", answer.text);
    }
    let made = site.call(Method::POST, "/admin/products", &[], Some(good.clone())).await;
    let location = made.headers["location"].to_str().unwrap().to_owned();
    assert_eq!(location, format!("/api/v1/products/{}", made.json()["productId"].as_str().unwrap()));
    let again = site.call(Method::POST, "/admin/products", &[], Some(good)).await;
    assert_eq!((again.status, &again.json()["code"]), (StatusCode::CONFLICT, &json!("SKU_ALREADY_EXISTS")));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adjustment_counts_once_and_never_takes_what_is_held() {
    let site = Site::start("adjust").await;
    let product = site.product(5).await;
    site.hold(Uuid::now_v7(), Uuid::now_v7(), &[(&product, 3)]).await.unwrap();
    let answers = join_all((0..10).map(|_| site.adjust(&product, "delivery-1", 5))).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK && answer.text == answers[0].text));
    let replayed = answers.iter().filter(|answer| answer.headers.contains_key("idempotent-replayed")).count();
    assert_eq!((site.stock(&product).await, replayed), ((10, 3), 9));

    let other = site.adjust(&product, "delivery-1", 6).await;
    assert_eq!(
        (other.status, &other.json()["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("IDEMPOTENCY_KEY_REUSED"))
    );
    let below = site.adjust(&product, "lost", -8).await;
    assert_eq!((below.status, &below.json()["code"]), (StatusCode::CONFLICT, &json!("STOCK_BELOW_HELD")));
    assert_eq!(site.adjust(&product, "lost", -7).await.status, StatusCode::OK, "a refusal does not use the key up");
    assert_eq!(site.stock(&product).await, (3, 3));
    assert_eq!(site.adjust(&product, "zero", 0).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(code(&site.hold_one(&product).await), "OUT_OF_STOCK");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn adjustments_find_their_way_through_a_sale() {
    let site = Site::start("busy").await;
    let product = site.product(2000).await;
    let sale = join_all((0..32).map(|_| async {
        for _ in 0..20 {
            site.hold_one(&product).await.unwrap();
        }
    }));
    let deliveries = async {
        for n in 0..10 {
            let answer = site.adjust(&product, &format!("d{n}"), 10).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        }
    };
    tokio::join!(sale, deliveries);
    assert_eq!(site.stock(&product).await, (2100, 640));
    site.stop().await;
}
