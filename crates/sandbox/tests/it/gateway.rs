//! The gateway routes by the longest prefix and answers for services that are away.

use sandbox::nginx::Gateway;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

#[tokio::test]
async fn the_longest_prefix_gets_the_request_with_its_id() {
    let folder = folder("gateway");
    let (all, orders) = (upstream("all").await, upstream("orders").await);
    let routes = [("/", all), ("/api/v1/orders", orders), ("/api/v1/gone", 1)]
        .map(|(prefix, port)| (prefix.to_owned(), vec![port]));
    let gateway = Gateway::start(&folder, None, &routes, None).await.unwrap();

    let answer = get(&gateway, "/api/v1/orders/7?x=1", "X-Request-Id: abc-1").await;
    assert!(answer.ends_with("orders saw /api/v1/orders/7?x=1 as abc-1"), "{answer}");
    let answer = get(&gateway, "/api/v1/orders-archive", "X-Request-Id: abc-2").await;
    assert!(answer.ends_with("all saw /api/v1/orders-archive as abc-2"), "{answer}");

    let answer = get(&gateway, "/api/v1/gone/7", "X-Request-Id: abc-3").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("Content-Type: application/problem+json"), "{answer}");
    assert!(answer.contains("Retry-After: 1"), "{answer}");
    assert!(answer.contains(r#""code":"SERVICE_UNAVAILABLE""#), "{answer}");
    assert!(answer.contains(r#""path":"/api/v1/gone/7""#) && answer.contains(r#""requestId":"abc-3""#), "{answer}");

    let answer = get(&gateway, "/api/v1/orders", "Content-Length: 2000000").await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("PAYLOAD_TOO_LARGE"), "{answer}");
    gateway.stop().await.unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_replica_that_takes_no_connection_is_passed_over() {
    let folder = folder("gateway-replicas");
    let (one, other) = (upstream("one").await, upstream("other").await);
    let gateway = Gateway::start(&folder, None, &[("/".to_owned(), vec![one, 1, other])], None).await.unwrap();
    let mut served = Vec::new();
    for _ in 0..6 {
        let answer = get(&gateway, "/", "X-Request-Id: a").await;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        served.push(body.split(' ').next().unwrap().to_owned());
    }
    served.sort();
    assert_eq!(served.len(), 6);
    served.dedup();
    assert_eq!(served, ["one", "other"]);
    drop(gateway);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_request_that_was_sent_is_not_sent_to_another_replica() {
    let folder = folder("gateway-once");
    // It takes every request, and closes the connection without an answer.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rude = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            assert!(connection.read(&mut [0; 4096]).await.unwrap() > 0);
        }
    });
    let other = upstream("other").await;
    let gateway = Gateway::start(&folder, None, &[("/".to_owned(), vec![rude, other])], None).await.unwrap();
    let mut refused = 0;
    for _ in 0..4 {
        let answer = send(&gateway, "POST", "/", "X-Request-Id: a\r\nContent-Length: 0").await;
        refused += usize::from(answer.starts_with("HTTP/1.1 503"));
    }
    assert_eq!(refused, 2, "half of them went to the one that does not answer, and stayed there");
    drop(gateway);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_path_of_no_service_is_a_problem_too() {
    let folder = folder("gateway-404");
    let gateway = Gateway::start(&folder, None, &[("/orders".to_owned(), vec![1])], None).await.unwrap();
    let answer = get(&gateway, "/elsewhere/\"quoted\"", "X-Request-Id: a\"b").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["code"], "NOT_FOUND");
    drop(gateway);
    std::fs::remove_dir_all(folder).unwrap();
}

/// A service that says what it was asked.
async fn upstream(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let length = connection.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = request.split(' ').nth(1).unwrap();
            let id = request.lines().find_map(|line| line.strip_prefix("X-Request-Id: ")).unwrap();
            let body = format!("{name} saw {path} as {id}");
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    port
}

async fn get(gateway: &Gateway, path: &str, header: &str) -> String {
    send(gateway, "GET", path, header).await
}

async fn send(gateway: &Gateway, method: &str, path: &str, header: &str) -> String {
    let url = gateway.url();
    let mut connection = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}
