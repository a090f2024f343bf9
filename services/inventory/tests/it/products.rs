//! Products over HTTP: what shoppers see and what administrators change.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Answer, Client, Product, eventually};
use uuid::Uuid;

use crate::site::{Site, code};

async fn change(admin: &Client, product: &Product, if_match: &str, change: &Value) -> Answer {
    let path = format!("/admin/products/{}", product.id);
    admin.send(admin.request(Method::PATCH, &path).header("If-Match", if_match).json(change)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_product_is_seen_by_its_next_reader() {
    let site = Site::start().await;
    let (product, admin) = (site.product(5).await, site.admin());
    let path = format!("/products/{}", product.id);
    let first = site.anyone().get(&path).await.expect(200);
    assert_eq!(first.json()["price"], json!({ "amount": 129_000, "currency": "KRW" }));
    let etag = first.header("ETag").unwrap().to_owned();
    let again = site.anyone().request(Method::GET, &path).header("If-None-Match", &etag);
    assert_eq!(site.anyone().send(again).await.expect(304).body, "");

    let boot = json!({ "name": "Boot", "price": { "amount": 2000, "currency": "KRW" } });
    assert_eq!(change(&admin, &product, &etag, &boot).await.expect(200).json()["version"], 2);
    change(&admin, &product, &etag, &boot).await.refused(412, "VERSION_CONFLICT");
    change(&admin, &product, "soon", &boot).await.refused(400, "VALIDATION_ERROR");
    assert_eq!(site.anyone().get(&path).await.expect(200).json()["name"], "Boot");

    // A reader that was slow put the old product back. One that remembers nothing itself finds it out.
    let mut old = first.json();
    old.as_object_mut().unwrap().remove("stock");
    let [key, shown] = ["", ":shown"].map(|end| format!("{}product:{}{end}", site.namespace(), product.id));
    let _: String = site.ask(redis::cmd("SET").arg(key).arg(old.to_string())).await;
    let _: i64 = site.ask(redis::cmd("DEL").arg(shown)).await;
    let replica = site.replica_with(&[]).await;
    assert_eq!(replica.anyone().get(&path).await.expect(200).json()["name"], "Boot");

    assert_eq!(site.hold_one(&product).await.unwrap().lines[0].unit_price, 2000, "the next buyer pays the new price");
    replica.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_leaves_the_fields_that_it_does_not_name() {
    let site = Site::start().await;
    let (product, admin) = (site.limited_product(5, 3).await, site.admin());
    let held = site.hold_one(&product).await.unwrap();
    let renamed = change(&admin, &product, "*", &json!({ "name": "Boot" })).await.expect(200).json();
    assert_eq!((&renamed["maxPerUser"], &renamed["price"]["amount"]), (&json!(3), &json!(129_000)));
    let raised = change(&admin, &product, "\"2\"", &json!({ "maxPerUser": 4 })).await.expect(200).json();
    assert_eq!((&raised["maxPerUser"], &raised["name"]), (&json!(4), &json!("Boot")));
    let freed = change(&admin, &product, "*", &json!({ "maxPerUser": null })).await.expect(200).json();
    assert_eq!((&freed["maxPerUser"], &freed["version"]), (&Value::Null, &json!(4)));
    change(&admin, &product, "*", &json!({ "maxPerUser": 0 })).await.refused(400, "VALIDATION_ERROR");
    let unknown = Product { id: Uuid::now_v7().to_string() };
    change(&admin, &unknown, "*", &json!({ "name": "Boot" })).await.refused(404, "PRODUCT_NOT_FOUND");
    change(&site.buyer().await, &product, "*", &json!({ "name": "Boot" })).await.refused(403, "FORBIDDEN");
    let kept = site.get_hold(&held.hold_id).await.unwrap();
    assert_eq!(kept.lines, held.lines, "those who hold keep their price and their name");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_shows_what_is_there() {
    let site = Site::start().await;
    let get = async |query: &str| site.anyone().get(&format!("/products{query}")).await;
    assert_eq!(get("").await.expect(200).json()["totalElements"], 0);
    let products = [site.product(1).await, site.product(2).await, site.product(0).await];
    let total = async || (get("").await.json()["totalElements"] == 3).then_some(());
    eventually("all products are listed", total).await;
    let page = get("?page=0&size=2").await.expect(200).json();
    assert_eq!((&page["totalPages"], page["content"].as_array().unwrap().len()), (&json!(2), 2));
    assert_eq!(page["content"][0]["productId"], products[2].id);
    assert_eq!(page["content"][0]["stock"]["status"], "SOLD_OUT");
    let found = get("?q=%25&sort=-price").await.expect(200).json();
    assert_eq!(found["totalElements"], 0, "a percent sign is no wildcard");
    let sku = page["content"][1]["sku"].as_str().unwrap();
    let by_sku = get(&format!("?q={}", &sku[..18])).await.expect(200).json();
    assert_eq!((&by_sku["totalElements"], &by_sku["content"][0]["sku"]), (&json!(1), &json!(sku)));
    for bad in ["size=0", "size=101", "page=-1", "page=9223372036854775807", "sort=evil", "x=1", "page=a"] {
        get(&format!("?{bad}")).await.refused(400, "VALIDATION_ERROR");
    }
    get(&format!("/{}", Uuid::now_v7())).await.refused(404, "PRODUCT_NOT_FOUND");
    get("/1").await.refused(400, "VALIDATION_ERROR");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_sorted_as_it_is_asked_for() {
    let site = Site::start().await;
    for (name, amount) in [("B", 2), ("C", 1), ("A", 3)] {
        site.product_with(json!({ "name": name, "price": { "amount": amount, "currency": "KRW" }, "initialStock": 0 }))
            .await;
    }
    let names = async |sort: &str| {
        let page = site.anyone().get(&format!("/products?sort={sort}")).await.expect(200).json();
        page["content"].as_array().unwrap().iter().map(|item| testkit::text(&item["name"])).collect::<String>()
    };
    let mut sorted = Vec::new();
    for sort in ["newest", "name", "price", "-price"] {
        sorted.push(names(sort).await);
    }
    assert_eq!(sorted, ["ACB", "ABC", "CBA", "ABC"]);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_product_is_checked_before_it_is_made() {
    let site = Site::start().await;
    let admin = site.admin();
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
        let answer = admin.post("/admin/products", &bad).await;
        assert_eq!(answer.status, 400, "{bad}: {answer}");
    }
    let made = admin.post("/admin/products", &good).await.expect(201);
    let location = format!("/api/v1/products/{}", made.json()["productId"].as_str().unwrap());
    assert_eq!(made.header("Location"), Some(location.as_str()));
    admin.post("/admin/products", &good).await.refused(409, "SKU_ALREADY_EXISTS");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adjustment_counts_once_and_never_takes_what_is_held() {
    let site = Site::start().await;
    let (product, admin) = (site.product(5).await, site.admin());
    site.hold_lines(&[(&product, 3)]).await.unwrap();
    let answers = join_all((0..10).map(|_| admin.adjust("delivery-1", &product, 5))).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.body == answers[0].body));
    let replayed = answers.iter().filter(|answer| answer.is_replay()).count();
    assert_eq!((site.stock(&product).await, replayed), ((10, 3), 9));

    admin.adjust("delivery-1", &product, 6).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    admin.adjust("lost", &product, -8).await.refused(409, "STOCK_BELOW_HELD");
    // A refusal does not use the key up.
    admin.adjust("lost", &product, -7).await.expect(200);
    assert_eq!(site.stock(&product).await, (3, 3));
    admin.adjust("zero", &product, 0).await.refused(400, "VALIDATION_ERROR");
    let unknown = Product { id: Uuid::now_v7().to_string() };
    admin.adjust("unknown", &unknown, 1).await.refused(404, "PRODUCT_NOT_FOUND");
    assert_eq!(code(&site.hold_one(&product).await), "OUT_OF_STOCK");
    site.gate_agrees(&product).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adjustment_that_meets_a_sale_counts_with_it() {
    let site = Site::start().await;
    let (product, admin) = (site.product(5).await, site.admin());
    let mut uncommitted = site.pause("inventory", "hold.before_commit");
    let lines = [(&product, 3)];
    let (held, adjusted) = tokio::join!(site.hold_lines(&lines), async {
        uncommitted.reached().await;
        // It has read the stock as it was before the hold.
        let (adjusted, ()) = tokio::join!(admin.adjust("lost", &product, -2), async {
            site.until_waiting(1).await;
            uncommitted.resume();
        });
        adjusted
    });
    held.unwrap();
    let adjusted = adjusted.expect(200).json();
    assert_eq!((&adjusted["onHand"], &adjusted["held"]), (&json!(3), &json!(3)));
    assert_eq!(site.stock(&product).await, (3, 3));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn adjustments_are_made_in_the_middle_of_a_sale() {
    let site = Site::start().await;
    let (product, admin) = (site.product(1000).await, site.admin());
    let sale = join_all((0..16).map(|_| async {
        for _ in 0..10 {
            site.hold_one(&product).await.unwrap();
        }
    }));
    let deliveries = async {
        for n in 0..5 {
            admin.adjust(&format!("delivery-{n}"), &product, 10).await.expect(200);
        }
    };
    tokio::join!(sale, deliveries);
    assert_eq!(site.stock(&product).await, (1050, 160));
    site.stop().await;
}

/// People sort without case, and some keyboards write a syllable as its letters.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_sorted_for_people_and_found_however_they_are_composed() {
    let site = Site::start().await;
    let admin = site.admin();
    for (sku, name) in [("NAME-1", "Banana"), ("NAME-2", "apple"), ("NAME-3", "cherry"), ("NAME-4", "한정판 신발")]
    {
        let price = json!({ "amount": 1000, "currency": "KRW" });
        let product = json!({ "sku": sku, "name": name, "price": price, "initialStock": 1 });
        admin.post("/admin/products", &product).await.expect(201);
    }
    let names = async |query: &str| -> Vec<String> {
        let page = site.anyone().get(&format!("/products?{query}")).await.expect(200).json();
        let content = page["content"].as_array().unwrap();
        content.iter().map(|product| product["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("sort=name").await, ["한정판 신발", "apple", "Banana", "cherry"]);
    let decomposed = "\u{1112}\u{1161}\u{11ab}\u{110c}\u{1165}\u{11bc}\u{1111}\u{1161}\u{11ab}";
    assert_eq!(names(&format!("q={decomposed}")).await, ["한정판 신발"]);
    site.stop().await;
}
