//! The edge that clients, browsers and proxies meet: methods, origins, compressed bodies, limits, and who somebody is.

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use testkit::site::PASSWORD;
use testkit::{Answer, Client, Site};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::site::system;

/// Those that OpenAPI can describe.
const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

/// Every path of the description with an id in each place, and its methods.
async fn paths(site: &Site) -> Vec<(String, Vec<String>)> {
    let anyone = site.anyone();
    let document = anyone.send(anyone.request_root(Method::GET, "/openapi.json")).await.expect(200).json();
    let paths = document["paths"].as_object().expect("paths");
    let id = Uuid::nil().to_string();
    let filled = |path: &str| {
        path.split('/').map(|part| if part.starts_with('{') { id.as_str() } else { part }).collect::<Vec<_>>().join("/")
    };
    let methods = |item: &Value| {
        METHODS.iter().filter(|method| item.get(method).is_some()).map(|method| method.to_uppercase()).collect()
    };
    paths.iter().map(|(path, item)| (filled(path), methods(item))).collect()
}

async fn ask(by: &Client, method: &str, path: &str) -> Answer {
    by.send(by.request_root(Method::from_bytes(method.as_bytes()).expect("a method"), path)).await
}

fn list(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let mut list: Vec<String> = values.flat_map(|value| value.split(',')).map(|it| it.trim().to_owned()).collect();
    list.sort_unstable();
    list
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_refuses_every_method_that_it_does_not_have_and_names_those_it_has() {
    let site = system().start().await;
    let buyer = site.buyer().await;
    let operational = ["/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/index.html", "/"];
    let mut paths = paths(&site).await;
    assert!(paths.len() > 50, "{}", paths.len());
    paths.extend(operational.map(|path| (path.to_owned(), vec!["GET".to_owned()])));
    let mut flaws = Vec::new();
    for (path, methods) in paths {
        let mut all = methods.clone();
        all.push("OPTIONS".to_owned());
        if methods.contains(&"GET".to_owned()) {
            all.push("HEAD".to_owned());
        }
        all.sort_unstable();
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH", "TRACE", "PROPFIND", "M1"] {
            if methods.contains(&method.to_owned()) {
                continue;
            }
            let answer = ask(&buyer, method, &path).await;
            let is_refused = answer.status == 405 && answer.code() == "METHOD_NOT_ALLOWED";
            if !is_refused || answer.checked_problem().is_err() || list(&answer.headers, "allow") != all {
                flaws.push(format!("{:?} {answer}", answer.headers.get("allow")));
            }
        }
        let answer = ask(&buyer, "OPTIONS", &path).await;
        if answer.status != 204 || list(&answer.headers, "allow") != all {
            flaws.push(answer.to_string());
        }
    }
    assert!(flaws.is_empty(), "{} flaws: {flaws:#?}", flaws.len());
    ask(&buyer, "DELETE", "/api/v1/nothing").await.refused(404, "NOT_FOUND");
    ask(&buyer, "OPTIONS", "/api/v1/nothing").await.refused(404, "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_answers_as_get_does_without_a_body() {
    let site = system().start().await;
    let buyer = site.buyer().await;
    let product = site.product(3).await;
    let order = buyer.order("head", &product, 1).await.expect(201);
    let order = order.json()["orderId"].as_str().expect("an id").to_owned();
    for path in [
        "/livez".to_owned(),
        "/readyz".to_owned(),
        "/openapi.json".to_owned(),
        "/docs/".to_owned(),
        "/.well-known/jwks.json".to_owned(),
        "/api/v1/products".to_owned(),
        format!("/api/v1/products/{}", product.id),
        format!("/api/v1/orders/{order}"),
        "/api/v1/auth/me".to_owned(),
    ] {
        let get = ask(&buyer, "GET", &path).await.expect(200);
        let head = ask(&buyer, "HEAD", &path).await.expect(200);
        assert!(head.body.is_empty(), "{head}");
        for name in ["content-type", "content-length", "etag", "cache-control"] {
            assert_eq!(head.header(name), get.header(name), "{name} of {path}");
        }
    }
    ask(&buyer, "HEAD", "/metrics").await.expect(200);
    let missing = ask(&buyer, "HEAD", &format!("/api/v1/orders/{}", Uuid::nil())).await.expect(404);
    assert!(missing.body.is_empty() && missing.header("content-type") == Some("application/problem+json"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_scripts_of_allowed_sites_may_call() {
    let site = system().set("http.allowed_origins", "https://shop.example.com").start().await;
    let (buyer, product) = (site.buyer().await, site.product(1).await);
    let preflight = async |origin: &str| {
        let request = buyer.request(Method::OPTIONS, "/orders").header("Origin", origin);
        let request = request.header("Access-Control-Request-Method", "POST");
        let headers = "authorization,content-type,idempotency-key";
        buyer.send(request.header("Access-Control-Request-Headers", headers)).await
    };
    let ours = "https://shop.example.com";
    let allowed = preflight(ours).await.expect(200);
    assert_eq!(allowed.header("access-control-allow-origin"), Some(ours));
    assert!(list(&allowed.headers, "access-control-allow-methods").contains(&"POST".to_owned()));
    let asked = list(&allowed.headers, "access-control-allow-headers");
    assert!(asked.contains(&"idempotency-key".to_owned()), "{asked:?}");
    let refused = preflight("https://evil.example.com").await;
    assert_eq!(refused.refused(400, "VALIDATION_ERROR")["details"][0]["field"], "Origin");
    assert_eq!(refused.header("access-control-allow-origin"), None);

    let from =
        async |origin: &str, path: &str| buyer.send(buyer.request(Method::GET, path).header("Origin", origin)).await;
    let read = format!("/products/{}", product.id);
    let missing = format!("/products/{}", Uuid::nil());
    for (path, status) in [(&read, 200), (&missing, 404)] {
        let answer = from(ours, path).await.expect(status);
        assert_eq!(answer.header("access-control-allow-origin"), Some(ours), "{answer}");
        let exposed = list(&answer.headers, "access-control-expose-headers").join(",").to_lowercase();
        for name in ["idempotent-replayed", "location", "retry-after", "x-request-id", "ratelimit", "etag"] {
            assert!(exposed.contains(name), "{name} is not exposed: {exposed}");
        }
        assert_eq!(from("https://evil.example.com", path).await.header("access-control-allow-origin"), None);
    }
    let closed = system().start().await;
    let anyone = closed.anyone();
    let request = anyone.request(Method::GET, "/products").header("Origin", ours);
    assert_eq!(anyone.send(request).await.expect(200).header("access-control-allow-origin"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_read_in_every_form_of_http_and_not_in_others() {
    let site = system().start().await;
    let (buyer, product) = (site.buyer().await, site.product(100).await);
    let order = json!({ "items": [{ "productId": product.id, "quantity": 1 }] }).to_string();
    let with = |name: &str, value: &str| {
        let key = Uuid::new_v4().to_string();
        let request = buyer.request(Method::POST, "/orders").header("Idempotency-Key", key);
        request.header("Content-Type", "application/json").header(name, value)
    };
    for encoding in ["gzip", "br", "deflate", "zstd", "gzip, gzip"] {
        let answer = buyer.send(with("Content-Encoding", encoding).body(order.clone())).await;
        let problem = answer.refused(415, "UNSUPPORTED_MEDIA_TYPE");
        assert_eq!(problem["details"][0]["field"], "Content-Encoding", "{problem}");
        assert_eq!(answer.header("Accept-Encoding"), Some("identity"));
    }
    let json = |kind: &str| {
        let key = Uuid::new_v4().to_string();
        let request = buyer.request(Method::POST, "/orders").header("Idempotency-Key", key);
        request.header("Content-Type", kind).body(order.clone())
    };
    for kind in ["application/json; charset=utf-8", "APPLICATION/JSON;charset=\"UTF-8\"", "application/vnd.shop+json"] {
        buyer.send(json(kind)).await.expect(201);
    }
    for kind in ["text/plain", "application/xml", "nonsense", "application/json-seq"] {
        let answer = buyer.send(json(kind)).await;
        assert_eq!(answer.refused(415, "UNSUPPORTED_MEDIA_TYPE")["details"][0]["field"], "Content-Type");
    }
    buyer.send(with("Content-Encoding", "identity").body(order.clone())).await.expect(201);
    let pieces = order.as_bytes().chunks(7).map(|piece| format!("{:x}\r\n{}\r\n", piece.len(), text_of(piece)));
    let chunked = format!("{}0\r\n\r\n", pieces.collect::<String>());
    let answer = raw_order(&buyer, "Transfer-Encoding: chunked", &chunked).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    buyer.send(with("Expect", "100-continue").body(order.clone())).await.expect(201);
    let marked = buyer.send(with("X-Sent", "with a BOM").body(format!("\u{feff}{order}"))).await;
    let problem = marked.refused(400, "VALIDATION_ERROR");
    assert!(problem["message"].as_str().is_some_and(|text| text.contains("byte order mark")), "{problem}");
}

fn text_of(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it is ASCII")
}

/// An order that is written to the socket as it is; the answer's beginning.
async fn raw_order(buyer: &Client, header: &str, body: &str) -> String {
    let request = buyer.request(Method::POST, "/orders").build().expect("a request");
    let address = request.url().socket_addrs(|| None).expect("an address")[0];
    let token = buyer.token.as_deref().unwrap_or_default();
    let head = format!(
        "POST /api/v1/orders HTTP/1.1\r\nHost: stampede\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Idempotency-Key: {}\r\nContent-Type: application/json\r\n{header}\r\n\r\n",
        Uuid::new_v4()
    );
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_in_a_path_or_a_query_is_told_by_name() {
    let site = system().start().await;
    let (buyer, admin) = (site.buyer().await, site.admin());
    for (by, path, field) in [
        (&buyer, "/orders/7", "orderId"),
        (&buyer, "/products/x", "productId"),
        (&buyer, "/orders?limit=many", "limit"),
        (&buyer, "/orders?status=NOPE", "status"),
        (&buyer, "/products?colour=red", "colour"),
        (&admin, "/admin/holds?productId=1", "productId"),
    ] {
        let problem = by.get(path).await.refused(400, "VALIDATION_ERROR");
        assert_eq!(problem["details"][0]["field"], field, "{problem}");
        assert!(!problem.to_string().contains("deserialize"), "{problem}");
    }
}

fn log_in(site: &Site, from: &str, email: &str, password: &str) -> impl Future<Output = Answer> {
    let anyone = site.anyone();
    let body = json!({ "email": email, "password": password });
    let request = anyone.request(Method::POST, "/auth/login").header("X-Forwarded-For", from).json(&body);
    async move { anyone.send(request).await }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_from_one_address_do_not_spend_the_owners_allowance() {
    let limits = [("http.trusted_proxies", "1"), ("account.log_ins_per_minute_account_and_address", "3")];
    let site = system().settings(&limits).start().await;
    let buyer = site.buyer().await;
    for left in [2, 1, 0] {
        let guess = log_in(&site, "203.0.113.9", &buyer.email, "a wrong guess").await;
        guess.refused(401, "INVALID_CREDENTIALS");
        let told = guess.header("RateLimit").expect("a limit applied").to_owned();
        assert!(told.contains(&format!("\"account-and-address\";r={left};t=")), "{told}");
        let policy = guess.header("RateLimit-Policy").expect("a limit applied");
        assert!(policy.contains("\"account-and-address\";q=3;w=60"), "{policy}");
    }
    let stopped = log_in(&site, "203.0.113.9:4711", &buyer.email, PASSWORD).await;
    stopped.refused(429, "TOO_MANY_ATTEMPTS");
    assert!(stopped.header("Retry-After").is_some() && stopped.header("RateLimit").is_some(), "{stopped}");
    log_in(&site, "198.51.100.7", &buyer.email, PASSWORD).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_have_a_limit_of_their_own() {
    let limits = [("http.trusted_proxies", "1"), ("account.registrations_per_minute_and_address", "2")];
    let site = system().settings(&limits).start().await;
    let register = async |from: &str, email: &str| {
        let anyone = site.anyone();
        let person = json!({ "email": email, "password": PASSWORD, "name": "Kim" });
        let request = anyone.request(Method::POST, "/auth/register").header("X-Forwarded-For", from).json(&person);
        anyone.send(request).await
    };
    for email in ["one@example.com", "two@example.com"] {
        register("203.0.113.9", email).await.expect(201);
    }
    register("203.0.113.9", "three@example.com").await.refused(429, "TOO_MANY_ATTEMPTS");
    register("198.51.100.7", "three@example.com").await.expect(201);
    log_in(&site, "203.0.113.9", "one@example.com", PASSWORD).await.expect(200);
}
