//! The gateway of containers, `gateway/nginx.conf` as it is committed, with a real nginx: only addresses are replaced.

use std::collections::BTreeMap;
use std::path::Path;

use common::error::{self, Code};
use sandbox::nginx::{self, Gateway};
use serde_json::Value;
use stampede::services::SERVICES;
use testkit::sse::Stream;
use testkit::{eventually, servers};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::deployment::paths_of;
use crate::site::system;
use crate::tidy;

/// Nobody listens on it.
const NOBODY: u16 = 1;

/// Starts the committed gateway in front of `ports`, each that of the service.
async fn gateway(name: &str, ports: &BTreeMap<&str, u16>, changes: &[(&str, &str)]) -> Gateway {
    let port = servers::port();
    let committed = std::fs::read_to_string(tidy::root().join("gateway/nginx.conf")).expect("gateway/nginx.conf");
    let render = |temp: &Path| {
        let mut text: String = committed
            .lines()
            // Names and addresses of containers; older versions of nginx have no `resolve`.
            .filter(|line| !line.trim_start().starts_with("resolver ") && !line.contains(" zone upstream_"))
            .map(|line| format!("{line}\n"))
            .collect();
        for (service, port) in ports {
            let server = format!("server {service}:8080 resolve max_fails=0;");
            assert!(text.contains(&server), "the gateway knows no {service}");
            text = text.replace(&server, &format!("server 127.0.0.1:{port} max_fails=0;"));
        }
        assert!(!text.contains("resolve "), "the gateway knows a service that there is not");
        let place = [
            ("worker_processes auto;", "daemon off;\nmaster_process off;\nworker_processes 1;"),
            ("listen 8080 ", &format!("listen 127.0.0.1:{port} ")),
            ("\"/tmp/", &format!("\"{}/", temp.display())),
            ("/etc/nginx/openapi.json", &tidy::root().join("openapi.json").display().to_string()),
        ];
        for (old, new) in place.iter().chain(changes) {
            assert!(text.contains(old), "the gateway's configuration has no {old:?}");
            text = text.replace(old, new);
        }
        Ok(text)
    };
    Gateway::run(&servers::folder(name), port, render).await.expect("nginx takes the configuration")
}

/// Something on a port that answers with its name, whatever it is asked.
async fn named(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = [0; 4096];
            if connection.read(&mut request).await.is_ok() {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", name.len());
                drop(connection.write_all(format!("{head}{name}").as_bytes()).await);
            }
        }
    });
    port
}

/// Sends `request` as it is; the answer's head and body.
async fn raw(gateway: &Gateway, request: &str) -> (String, String) {
    let url = gateway.url();
    let mut connection = TcpStream::connect(url.trim_start_matches("http://")).await.expect("it listens");
    connection.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    (head.to_owned(), body.to_owned())
}

async fn get(gateway: &Gateway, path: &str, headers: &str) -> (String, String) {
    raw(gateway, &format!("GET {path} HTTP/1.1\r\nHost: stampede\r\nConnection: close\r\n{headers}\r\n")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_of_the_api_reaches_its_service() {
    let mut ports = BTreeMap::new();
    for service in SERVICES {
        ports.insert(service.name, named(service.name).await);
    }
    let gateway = gateway("gateway-paths", &ports, &[("rate=100r/s", "rate=100000r/s")]).await;
    let mut wrong = Vec::new();
    for service in SERVICES {
        for path in paths_of(service).await {
            let (_, body) = get(&gateway, &path, "").await;
            if body != service.name {
                wrong.push(format!("{path} of {} reaches {body}", service.name));
            }
        }
    }
    tidy::holds("`paths` of a service's manifest cover its routes.", wrong);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_passes_as_it_is_written() {
    let site = system().start().await;
    let port = site.api.rsplit(':').next().and_then(|port| port.parse().ok()).expect("it has a port");
    let ports = SERVICES.iter().map(|service| (service.name, port)).collect();
    let gateway = gateway("gateway-stream", &ports, &[]).await;
    let client = site.buyer().await;
    let stream = client.at(&gateway.url());
    let response = eventually("the stream is ready", async || {
        let response = stream.request(reqwest::Method::GET, "/stream").send().await.expect("the gateway answers");
        (response.status() == 200).then_some(response)
    })
    .await;
    let mut stream = Stream::of(response);
    assert_eq!(stream.next().await.expect("it begins").kind, "snapshot");
    // Not before more comes or the stream ends, but at once.
    client.order("through-the-gateway", &site.product(1).await, 1).await.expect(201);
    assert_eq!(stream.next().await.expect("it goes on").kind, "order.updated");
    site.stop().await;
    assert_eq!(stream.next().await.expect("it ends in order").kind, "end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_own_errors_have_the_form_of_the_services() {
    let mut ports: BTreeMap<&str, u16> = SERVICES.iter().map(|service| (service.name, NOBODY)).collect();
    ports.insert("order", named("order").await);
    let gateway = gateway("gateway-errors", &ports, &[]).await;
    let site = system().start().await;
    let anyone = site.anyone();
    let mut theirs: Value = anyone.send(anyone.request_root(reqwest::Method::GET, "/nothing")).await.expect(404).json();
    // What no service has seen belongs to no trace.
    theirs.as_object_mut().expect("it is an object").remove("traceId").expect("a service names the trace");
    let host = "Host: stampede\r\nConnection: close\r\n";
    let long = "a".repeat(20_000);
    let cases: [(&str, String, &Code); 8] = [
        ("/elsewhere", format!("GET /elsewhere?x=1 HTTP/1.1\r\n{host}\r\n"), &error::NOT_FOUND),
        ("/api/v1/products", format!("GET /api/v1/products HTTP/1.1\r\n{host}\r\n"), &error::SERVICE_UNAVAILABLE),
        ("/api/v1/orders", format!("TRACE /api/v1/orders HTTP/1.1\r\n{host}\r\n"), &error::METHOD_NOT_ALLOWED),
        ("/", "what is this\r\n\r\n".to_owned(), &error::VALIDATION_ERROR),
        ("/", format!("GET /api/%zz HTTP/1.1\r\n{host}\r\n"), &error::VALIDATION_ERROR),
        ("/", format!("GET /{long} HTTP/1.1\r\n{host}\r\n"), &error::VALIDATION_ERROR),
        ("/x", format!("GET /x HTTP/1.1\r\nCookie: {long}\r\n{host}\r\n"), &error::VALIDATION_ERROR),
        ("/", format!("GET /\"quoted\" HTTP/1.1\r\n{host}\r\n"), &error::NOT_FOUND),
    ];
    for (path, request, code) in cases {
        let (head, body) = raw(&gateway, &request).await;
        is_problem(&head, &body, path, code, &theirs);
    }
    let (head, body) = raw(
        &gateway,
        &format!(
            "POST /api/v1/orders HTTP/1.1\r\nContent-Length: 2000000\r\nAccept-Language: ko-KR,en;q=0.5\r\n{host}\r\n"
        ),
    )
    .await;
    assert!(head.starts_with("HTTP/1.1 413") && body.contains("PAYLOAD_TOO_LARGE"), "{head}\n{body}");
    assert!(body.contains("요청 본문이 너무 큽니다."), "{body}");
    let (head, _) =
        raw(&gateway, &format!("POST /api/v1/orders HTTP/1.1\r\nContent-Length: 65537\r\n{host}\r\n")).await;
    assert!(head.starts_with("HTTP/1.1 413"), "the gateway and the services have one limit: {head}");
    let (head, body) = get(&gateway, "/api/v1/orders/7?x=1", "X-Request-Id: abc-1\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200") && body == "order", "what a service answers is left alone: {body}");
    tells_browsers(&head, false);
}

/// What a browser is told with each answer. Pages may load what belongs to them, other answers nothing.
#[track_caller]
fn tells_browsers(head: &str, is_page: bool) {
    for (name, value) in nginx::RESPONSE_HEADERS {
        let expected = match (name, is_page) {
            ("Content-Security-Policy", false) => format!("{name}: default-src 'none'; {value}"),
            _ => format!("{name}: {value}"),
        };
        let lines = head.lines().filter(|line| line.to_lowercase().starts_with(&format!("{}:", name.to_lowercase())));
        assert_eq!(lines.collect::<Vec<_>>(), [expected], "{head}");
    }
}

/// The members of a service's error, its status and code, and Korean for those who ask for it.
fn is_problem(head: &str, body: &str, path: &str, code: &Code, theirs: &Value) {
    assert!(head.starts_with(&format!("HTTP/1.1 {}", code.http)), "{head}\n{body}");
    tells_browsers(head, false);
    assert!(head.contains("Content-Type: application/problem+json") && head.contains("X-Request-Id: "), "{head}");
    assert_eq!(head.contains("Retry-After: 1"), [429, 503].contains(&code.http), "{head}");
    let problem: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
    let members = |problem: &Value| problem.as_object().map(|members| members.keys().cloned().collect::<Vec<_>>());
    assert_eq!(members(&problem), members(theirs), "{body}");
    assert_eq!((&problem["code"], &problem["title"]), (&code.reason.as_ref().into(), &code.reason.as_ref().into()));
    assert_eq!((&problem["path"], &problem["instance"]), (&path.into(), &path.into()), "{body}");
    assert_eq!(problem["type"], format!("urn:stampede:error:{}", code.reason));
    let at = problem["timestamp"].as_str().unwrap_or_default();
    assert!(chrono::DateTime::parse_from_rfc3339(at).is_ok(), "{at}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_of_all_services_and_its_page_are_behind_it() {
    let site = system().start().await;
    let port = site.api.rsplit(':').next().and_then(|port| port.parse().ok()).expect("it has a port");
    let ports: BTreeMap<&str, u16> = SERVICES.iter().map(|service| (service.name, port)).collect();
    let gateway = gateway("gateway-docs", &ports, &[]).await;
    for path in ["/", "/docs"] {
        let (head, _) = get(&gateway, path, "").await;
        assert!(head.starts_with("HTTP/1.1 302") && head.contains("/docs/"), "{head}");
        tells_browsers(&head, true);
    }
    let (head, page) = get(&gateway, "/docs/", "").await;
    assert!(head.starts_with("HTTP/1.1 200") && page.to_lowercase().contains("<html"), "{head}");
    tells_browsers(&head, true);
    let (head, body) = get(&gateway, "/openapi.json", "").await;
    tells_browsers(&head, false);
    assert!(head.contains("Content-Type: application/json") && !head.contains("Content-Encoding"), "{head}");
    let described: Value = serde_json::from_str(&body).expect("it is JSON");
    let committed = std::fs::read_to_string(tidy::root().join("openapi.json")).expect("it is there");
    assert_eq!(described, serde_json::from_str::<Value>(&committed).expect("it is JSON"));
    let request = "GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept-Encoding: gzip\r\n\r\n";
    let mut connection = TcpStream::connect(gateway.url().trim_start_matches("http://")).await.expect("it listens");
    connection.write_all(request.as_bytes()).await.expect("it reads");
    let mut compressed = Vec::new();
    connection.read_to_end(&mut compressed).await.expect("it answers");
    let head = String::from_utf8_lossy(&compressed[..compressed.len().min(1000)]).into_owned();
    assert!(head.contains("Content-Encoding: gzip") && compressed.len() < body.len() / 2, "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_from_one_address_is_told_to_come_back_in_its_language() {
    let ports: BTreeMap<&str, u16> = SERVICES.iter().map(|service| (service.name, NOBODY)).collect();
    let changes = [("rate=100r/s", "rate=1r/m"), ("burst=200", "burst=1")];
    let gateway = gateway("gateway-flood", &ports, &changes).await;
    for _ in 0..2 {
        let (head, _) = get(&gateway, "/api/v1/orders/7", "").await;
        assert!(head.starts_with("HTTP/1.1 503"), "there is nobody behind it: {head}");
    }
    let (head, body) = get(&gateway, "/api/v1/orders/7", "Accept-Language: ko\r\n").await;
    assert!(head.starts_with("HTTP/1.1 429") && head.contains("Retry-After: 1"), "{head}");
    let problem: Value = serde_json::from_str(&body).expect("a body");
    assert_eq!(problem["code"], "RATE_LIMITED");
    assert_eq!(problem["message"], error::RATE_LIMITED.korean.as_ref(), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_placed_through_it() {
    let site = system().start().await;
    let port = site.api.rsplit(':').next().and_then(|port| port.parse().ok()).expect("it has a port");
    let ports: BTreeMap<&str, u16> = SERVICES.iter().map(|service| (service.name, port)).collect();
    let gateway = gateway("gateway-order", &ports, &[]).await;
    let product = site.product(1).await;
    let direct = site.buyer().await;
    let buyer = direct.at(&gateway.url());
    let order = buyer.order("through-the-gateway", &product, 1).await.expect(201);
    assert!(order.header("x-request-id").is_some());
    let again = direct.order("through-the-gateway", &product, 1).await.expect(201);
    assert_eq!(order.json()["orderId"], again.json()["orderId"], "both doors lead to one house");
}
