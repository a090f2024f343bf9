//! Query strings: limits, pages, cursors, filters.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;

use super::Trial;
use super::authorisation::with_ids;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_that_make_no_sense_are_refused_everywhere() {
    let mut trial = Trial::start().await;
    let audits = format!("/admin/products/{}/stock-audits", trial.product.id);
    let limits = ["0", "101", "-1", "abc", "1e1", "1.0", "", "99999999999999999999", "%00", "NaN", "1;2"];
    for (path, name) in [
        ("/orders", "limit"),
        ("/notifications", "limit"),
        ("/admin/holds", "limit"),
        ("/admin/api-keys", "limit"),
        ("/me/inbox", "limit"),
        ("/admin/deliveries/dead", "limit"),
        ("/admin/webhook-endpoints", "limit"),
        (&audits, "limit"),
        ("/products", "size"),
    ] {
        for limit in limits {
            refuse(&mut trial, &format!("{path}?{name}={limit}")).await;
        }
        refuse(&mut trial, &format!("{path}?{name}=1&{name}=2")).await;
        refuse(&mut trial, &format!("{path}?nobody=knows")).await;
        refuse(&mut trial, &format!("{path}?%00=1")).await;
        let many: Vec<String> = (0..1000).map(|n| format!("p{n}={n}")).collect();
        refuse(&mut trial, &format!("{path}?{}", many.join("&"))).await;
    }
    for page in ["-1", "abc", "9223372036854775807", "9223372036854775808", "100000", ""] {
        refuse(&mut trial, &format!("/products?page={page}")).await;
    }
    for query in ["sort=bogus", "sort=", "q=", "q=%20", "q=a%00b", "q=%0a"] {
        refuse(&mut trial, &format!("/products?{query}")).await;
    }
    refuse(&mut trial, &format!("/products?q={}", "x".repeat(101))).await;
    for query in ["status=NOPE", "status=created", "status=", "status=CREATED%00"] {
        refuse(&mut trial, &format!("/orders?{query}")).await;
    }
    for query in ["state=NOPE", "state=held", "productId=1", "productId=", "cursor=1"] {
        refuse(&mut trial, &format!("/admin/holds?{query}")).await;
    }
    for query in [
        "status=NOPE",
        "channel=PIGEON",
        "userId=me",
        "from=yesterday",
        "from=1",
        "from=2026-13-01T00:00:00Z",
        "to=2026-01-01",
        "to=%00",
        "from=2026-01-01T00:00:00",
        "type=%00",
        "type=A%00B",
    ] {
        refuse(&mut trial, &format!("/notifications?{query}")).await;
    }
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_that_we_did_not_make_are_refused() {
    let mut trial = Trial::start().await;
    let audits = format!("/admin/products/{}/stock-audits", trial.product.id);
    // Of the right length, with times that no calendar of PostgreSQL has.
    let crafted = |micros: i64| URL_SAFE_NO_PAD.encode([micros.to_be_bytes().as_slice(), &[7; 16]].concat());
    let cursors = [
        "",
        "x",
        "0",
        "-1",
        "null",
        "..%2F..",
        "%00",
        "AAAA",
        "한글",
        "e30=",
        "9999999999999999999999",
        &"A".repeat(4000),
        &URL_SAFE_NO_PAD.encode([0x7f; 24]),
        &URL_SAFE_NO_PAD.encode([0x80; 24]),
        &URL_SAFE_NO_PAD.encode([0; 23]),
        // 262143, 262142 and 4714 before Christ, and 294277: the edges of chrono and of PostgreSQL.
        &crafted(-8_334_601_228_800_000_000),
        &crafted(-8_334_000_000_000_000_000),
        &crafted(-211_000_000_000_000_000),
        &crafted(i64::MIN),
        &crafted(i64::MAX),
        &crafted(8_210_266_876_799_999_999),
    ];
    for path in
        ["/orders", "/notifications", "/admin/holds", "/admin/api-keys", "/me/inbox", "/admin/deliveries/dead", &audits]
    {
        for cursor in &cursors {
            let by = trial.admin.clone();
            let request = by.request(Method::GET, &format!("{path}?cursor={cursor}"));
            let answer = by.send(request).await;
            // A time in range is a place in the list, if not one that we ever named: then the page is merely empty.
            if answer.status != 200 {
                trial
                    .refuse(
                        &format!("cursor {cursor:.30}"),
                        &by,
                        by.request(Method::GET, &format!("{path}?cursor={cursor}")),
                    )
                    .await;
            }
        }
    }
    // Times of filters have the same edges.
    for at in [
        "-262143-01-01T00:00:00Z",
        "%2B262142-12-31T23:59:59Z",
        "-4714-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:60Z",
        "%2B294277-01-01T00:00:00Z",
    ] {
        for name in ["from", "to"] {
            let by = trial.admin.clone();
            let path = format!("/notifications?{name}={at}");
            if by.get(&path).await.status != 200 {
                trial.refuse(&path, &by, by.request(Method::GET, &path)).await;
            }
        }
    }
    trial.end().await;
}

/// Lists have `limit` and `cursor`; the catalogue has numbered pages, `page` and `size`. Whoever confuses them is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_list_refuses_a_parameter_that_it_does_not_have_and_names_those_that_it_has() {
    let trial = Trial::start().await;
    let (admin, round) = (trial.admin.clone(), "1".to_owned());
    let document = admin.send(admin.request_root(Method::GET, "/openapi.json")).await.expect(200).json();
    let mut lists = 0;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let parameters = operations["get"]["parameters"].as_array().into_iter().flatten();
        let in_query = parameters.filter(|parameter| parameter["in"] == "query");
        let names: Vec<&str> = in_query.filter_map(|parameter| parameter["name"].as_str()).collect();
        let pages = ["limit", "cursor", "page", "size"].map(|name| names.contains(&name));
        let comes_whole = path.ends_with("}/payments") || path.ends_with("/attempts");
        match pages {
            [true, true, false, false] => {}
            [false, false, true, true] => assert_eq!(path, "/api/v1/products", "all other lists have cursors"),
            [false, false, false, false] if comes_whole => {}
            [false, false, false, false] => continue,
            _ => panic!("{path} has {names:?}"),
        }
        lists += 1;
        let id_in = |place: &str| if place == "restock-rounds" { &round } else { trial.id_in(place) };
        let wrong = format!("{}?perPage=1", with_ids(path, id_in));
        let problem = admin.send(admin.request_root(Method::GET, &wrong)).await.refused(400, "VALIDATION_ERROR");
        assert_eq!(problem["details"][0]["field"], "perPage", "{problem}");
        let message = problem["message"].as_str().unwrap_or_default();
        let is_named = |name: &&str| message.contains(&format!("`{name}`"));
        assert!(message.contains("`perPage`") && names.iter().all(is_named), "{path} has {names:?}: {message}");
    }
    assert!(lists >= 25, "only {lists} lists");
    trial.end().await;
}

async fn refuse(trial: &mut Trial, path: &str) {
    let by = trial.admin.clone();
    let request = by.request(Method::GET, path);
    trial.refuse_with(path, &by, request, 400, "VALIDATION_ERROR").await;
}
