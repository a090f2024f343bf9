//! Bodies: malformed, mistyped, out of range, too many, too large.

use serde_json::{Map, Value, json};
use testkit::line;

use super::Trial;

/// Names that a client must not be able to set, wherever it writes them.
const NOT_YOURS: [&str; 16] = [
    "amount",
    "createdAt",
    "currency",
    "holdExpiresAt",
    "id",
    "idempotencyKey",
    "isAdmin",
    "orderId",
    "role",
    "roles",
    "status",
    "total",
    "unitPrice",
    "userId",
    "version",
    "__proto__",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_json_is_refused_everywhere() {
    let mut trial = Trial::start().await;
    for door in trial.doors() {
        let valid = door.valid.to_string();
        let name = door.valid.as_object().and_then(|members| members.keys().next()).expect("a member").clone();
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("half of it", valid[..valid.len() / 2].into()),
            ("text behind it", format!("{valid} x").into()),
            ("twice", format!("{valid}{valid}").into()),
            ("a BOM before it", format!("\u{feff}{valid}").into()),
            ("not UTF-8", [valid.trim_end_matches('}').as_bytes(), b",\"x\":\"\xff\xfe\"}"].concat()),
            ("a lone surrogate", format!(r#"{{"{name}":"\ud800"}}"#).into()),
            ("a raw line break in a text", format!("{{\"{name}\":\"a\nb\"}}").into()),
            ("NaN", format!(r#"{{"{name}":NaN}}"#).into()),
            ("single quotes", valid.replace('"', "'").into()),
            ("a comment", format!("/* */{valid}").into()),
            ("a list", b"[]".into()),
            ("a list of it", format!("[{valid}]").into()),
            ("a text", b"\"x\"".into()),
            ("a number", b"1".into()),
            ("deep nesting", format!("{{\"{name}\":{}}}", "[".repeat(10_000)).into()),
            ("a member twice", format!("{{{},{}", &valid[1..valid.len() - 1], &valid[1..]).into()),
        ];
        for (what, body) in cases {
            let request = door.with_text(body);
            trial.refuse_with(&format!("{}: {what}", door.path), &door.by, request, 400, "VALIDATION_ERROR").await;
        }
    }
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_must_be_there_be_json_and_be_small() {
    let mut trial = Trial::start().await;
    for door in trial.doors() {
        // An order is cancelled without a word.
        if !door.path.starts_with("/orders/") {
            let nothing = door.with_text("");
            trial.refuse_with(&format!("{}: empty", door.path), &door.by, nothing, 400, "VALIDATION_ERROR").await;
            let unsaid = door.knock();
            trial.refuse(&format!("{}: no body at all", door.path), &door.by, unsaid).await;
            let null = door.with_text("null");
            trial.refuse_with(&format!("{}: null", door.path), &door.by, null, 400, "VALIDATION_ERROR").await;
        }
        for kind in
            ["text/plain", "application/x-www-form-urlencoded", "application/xml", "nonsense", "application/json-seq"]
        {
            let request = door.knock().header("Content-Type", kind).body(door.valid.to_string());
            trial.refuse(&format!("{}: {kind}", door.path), &door.by, request).await;
        }
        let request = door.knock().body(door.valid.to_string());
        trial.refuse(&format!("{}: no content type", door.path), &door.by, request).await;
        let large = format!("{}{}", " ".repeat(1 << 20), door.valid);
        let answer = trial.refuse(&format!("{}: a megabyte", door.path), &door.by, door.with_text(large)).await;
        assert_eq!(answer.status, 413, "{answer}");
        let many = json!({ "items": vec![0; 20_000] });
        trial.refuse(&format!("{}: a long list", door.path), &door.by, door.with(&many)).await;
        let garbage =
            door.knock().header("Content-Type", "application/json").header("Content-Encoding", "gzip").body("no gzip");
        trial.refuse(&format!("{}: broken gzip", door.path), &door.by, garbage).await;
    }
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_are_missing_mistyped_or_unknown_are_refused_everywhere() {
    let mut trial = Trial::start().await;
    for door in trial.doors() {
        let valid = door.valid.as_object().expect("an object");
        let mut cases: Vec<(String, Value)> = Vec::new();
        for (name, value) in valid {
            if !door.optional.contains(&name.as_str()) {
                let mut without = valid.clone();
                without.remove(name);
                cases.push((format!("without {name}"), without.into()));
                cases.push((format!("{name} null"), set(valid, name, Value::Null)));
            }
            let others = [json!([]), json!({}), json!(true), json!([value]), json!({ "0": value })];
            for other in others.into_iter().filter(|other| !(value.is_boolean() && other.is_boolean())) {
                cases.push((format!("{name} is {other}"), set(valid, name, other)));
            }
            for list in
                [positional(value), value.as_array().map(|values| values.iter().filter_map(positional).collect())]
            {
                // An object whose values come as a list would be read in the order of our source.
                cases.extend(list.map(|list| (format!("{name} is {list}"), set(valid, name, list))));
            }
            let swapped = if value.is_string() { json!(12) } else { json!("12") };
            cases.push((format!("{name} is {swapped}"), set(valid, name, swapped)));
            if value.is_number() {
                for number in [json!(1.5), json!(1e308), json!("1"), json!(u64::MAX)] {
                    cases.push((format!("{name} is {number}"), set(valid, name, number)));
                }
            }
        }
        for name in NOT_YOURS {
            cases.push((format!("with {name}"), set(valid, name, json!("ADMIN"))));
        }
        for (what, body) in cases {
            let request = door.with(&body);
            trial.refuse_with(&format!("{}: {what}", door.path), &door.by, request, 400, "VALIDATION_ERROR").await;
        }
    }
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_that_cannot_be_stored_or_shown_is_refused_everywhere() {
    let mut trial = Trial::start().await;
    for door in trial.doors().into_iter().filter(|door| !door.path.starts_with("/auth/log")) {
        let valid = door.valid.as_object().expect("an object");
        // Passwords and messages may be long, and messages have lines.
        let is_line = |name: &str| !["password", "body"].contains(&name);
        for (name, value) in valid.iter().filter(|(name, value)| value.is_string() && is_line(name)) {
            let text = value.as_str().unwrap_or_default();
            for bad in [
                format!("{text}\0"),
                format!("a\0{text}"),
                format!("{text}\nBcc: x"),
                format!("a\u{7f}{text}"),
                " ".to_owned(),
                "x".repeat(5000),
            ] {
                let request = door.with(&set(valid, name, json!(bad)));
                let what = format!("{}: {name} is {:?}", door.path, &bad[..bad.len().min(20)]);
                let answer = trial.refuse(&what, &door.by, request).await;
                assert!([400, 401].contains(&answer.status.as_u16()), "{answer}");
            }
        }
    }
    let good = json!({ "recipient": "Kim", "phone": "010-0000-0000", "postalCode": "04524", "address": "Seoul", "memo": "door" });
    let address = good.as_object().expect("an object");
    for name in address.keys() {
        for bad in [json!("a\0b"), json!("a\r\nb"), json!("x".repeat(400)), json!(7), json!([])] {
            let order = json!({ "items": [line(&trial.product, 1)], "shippingInfo": set(address, name, bad.clone()) });
            let request = trial.buyer.placing(&testkit::fresh_key(), &order);
            let buyer = trial.buyer.clone();
            trial.refuse_with(&format!("shippingInfo.{name}"), &buyer, request, 400, "VALIDATION_ERROR").await;
        }
    }
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_told_with_its_place() {
    let mut trial = Trial::start().await;
    let (buyer, one) = (trial.buyer.clone(), line(&trial.product, 1));
    let id = trial.product.id.clone();
    for (order, field) in [
        (json!({ "items": [one, { "productId": id, "quantity": "1" }] }), "items[1].quantity"),
        (json!({ "items": [{ "productId": id }] }), "items[0].quantity"),
        (json!({ "items": [one], "shippingInfo": { "recipient": 7 } }), "shippingInfo.recipient"),
        (json!({ "items": [one], "coupon": "x" }), "coupon"),
        (json!({}), "items"),
    ] {
        let request = buyer.placing(&testkit::fresh_key(), &order);
        let told = trial.refuse(field, &buyer, request).await.json();
        assert_eq!(told["details"][0]["field"], field, "{told}");
    }
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_outside_the_bounds_are_refused() {
    let mut trial = Trial::start().await;
    let (buyer, one) = (trial.buyer.clone(), line(&trial.product, 1));
    let of = |quantity: Value| json!({ "items": [{ "productId": trial.product.id, "quantity": quantity }] });
    let product = |id: &str| json!({ "items": [{ "productId": id, "quantity": 1 }] });
    let mut cases: Vec<(String, Value)> = Vec::new();
    for quantity in [
        json!(0),
        json!(-1),
        json!(1001),
        json!(i32::MAX),
        json!(i64::from(i32::MAX) + 1),
        json!(i32::MIN),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1.0),
        json!(1e3),
        json!(-0.0),
        json!("1"),
        json!(null),
        json!([1]),
        json!(true),
    ] {
        cases.push((format!("quantity {quantity}"), of(quantity)));
    }
    let id = &trial.product.id;
    for bad in [
        "",
        "1",
        "../x",
        "x' or '1'='1",
        &format!("{{{id}}}"),
        &id.replace('-', ""),
        &format!("urn:uuid:{id}"),
        &format!("{id} "),
        &format!("{id}\0"),
        &"0".repeat(36),
    ] {
        cases.push((format!("productId {bad:?}"), product(bad)));
    }
    cases.push(("no lines".to_owned(), json!({ "items": [] })));
    cases.push(("lines null".to_owned(), json!({ "items": null })));
    cases.push(("51 lines".to_owned(), json!({ "items": (0..51).map(|_| json!({ "productId": uuid::Uuid::now_v7(), "quantity": 1 })).collect::<Vec<_>>() })));
    cases.push(("a product twice".to_owned(), json!({ "items": [one, one] })));
    let respelt = json!({ "productId": id.to_uppercase(), "quantity": 1 });
    cases.push(("a product twice in two spellings".to_owned(), json!({ "items": [one, respelt] })));
    cases.push((
        "a price".to_owned(),
        json!({ "items": [{ "productId": id, "quantity": 1, "unitPrice": { "amount": 1, "currency": "KRW" } }] }),
    ));
    for (what, order) in cases {
        let request = buyer.placing(&testkit::fresh_key(), &order);
        trial.refuse_with(&what, &buyer, request, 400, "VALIDATION_ERROR").await;
    }
    // A well-formed id that names no product, or something that is not one.
    for id in [
        uuid::Uuid::nil().to_string(),
        uuid::Uuid::max().to_string(),
        uuid::Uuid::now_v7().to_string(),
        trial.order.clone(),
        buyer.user_id.clone(),
    ] {
        let request = buyer.placing(&testkit::fresh_key(), &product(&id));
        trial.refuse_with(&id, &buyer, request, 404, "PRODUCT_NOT_FOUND").await;
        let with_a_good_one = json!({ "items": [one, { "productId": id, "quantity": 1 }] });
        let request = buyer.placing(&testkit::fresh_key(), &with_a_good_one);
        trial.refuse_with(&format!("a good line and {id}"), &buyer, request, 404, "PRODUCT_NOT_FOUND").await;
    }
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_outside_the_bounds_are_refused_of_people_and_products() {
    let mut trial = Trial::start().await;
    let doors = trial.doors();
    let of = |path: &str| doors.iter().find(|door| door.path.ends_with(path)).expect("it is a door");
    let long = format!("{}@example.com", "a".repeat(250));
    let emails = [
        "",
        "x",
        "@",
        "a@",
        "@b",
        "a b@c.de",
        "a@b@c.de",
        "a@b..c",
        "a,b@c.de",
        "\"a\"@c.de",
        "a@c.de\nBcc: d@e.f",
        long.as_str(),
    ];
    let prices = [0, -1, i64::MIN, i64::MAX].map(|amount| json!({ "amount": amount, "currency": "KRW" }));
    let currencies =
        [json!("USD"), json!("krw"), json!(""), json!(1)].map(|currency| json!({ "amount": 1, "currency": currency }));
    let mut cases: Vec<(&str, &str, Value)> = Vec::new();
    cases.extend(emails.map(|email| ("/auth/register", "email", json!(email))));
    cases.extend(["", "short", "1234567"].map(|password| ("/auth/register", "password", json!(password))));
    cases.push(("/auth/register", "password", json!("x".repeat(129))));
    cases.extend(["", "   "].map(|name| ("/auth/register", "name", json!(name))));
    let product = trial.product.id.clone();
    for door in ["/admin/products", product.as_str()] {
        cases.extend(prices.iter().chain(&currencies).map(|price| (door, "price", price.clone())));
        cases.extend([0, -1, i64::MAX].map(|most| (door, "maxPerUser", json!(most))));
    }
    // Any amount that can be written is compared with what the order costs, and refused as another.
    for door in ["/payments/prepare", "/approve"] {
        cases.extend(currencies.iter().map(|amount| (door, "amount", amount.clone())));
    }
    cases.extend(prices.iter().chain(&currencies).map(|amount| ("/points/charge", "amount", amount.clone())));
    cases.extend(["", "CASH", "naverpay"].map(|method| ("/payments/prepare", "method", json!(method))));
    cases.extend([-1, i64::MIN, i64::MAX].map(|stock| ("/admin/products", "initialStock", json!(stock))));
    cases.extend([0, i64::MIN, i64::MAX].map(|delta| ("/stock-adjust", "delta", json!(delta))));
    for (path, name, value) in cases {
        let door = of(path);
        let request = door.with(&set(door.valid.as_object().expect("an object"), name, value.clone()));
        trial.refuse_with(&format!("{path}: {name} is {value}"), &door.by, request, 400, "VALIDATION_ERROR").await;
    }
    trial.end().await;
}

fn set(valid: &Map<String, Value>, name: &str, value: Value) -> Value {
    let mut changed = valid.clone();
    changed.insert(name.to_owned(), value);
    changed.into()
}

/// The values of an object, without their names.
fn positional(object: &Value) -> Option<Value> {
    object.as_object().map(|members| members.values().cloned().collect())
}
