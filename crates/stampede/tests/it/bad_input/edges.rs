//! The edge itself: unknown paths and methods, languages, and bytes that are hardly HTTP.

use std::time::Duration;
use testkit::fresh_key;

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Trial;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_said_so_in_the_same_form() {
    let mut trial = Trial::start().await;
    let buyer = trial.buyer.clone();
    for path in [
        "/api",
        "/api/v1",
        "/api/v1/",
        "/api/v1/nothing",
        "/api/v2/orders",
        "/API/V1/orders",
        "//api/v1/orders",
        "/api/v1/orders/",
        "/api/v1/../v1/nothing",
        "/%00",
        "/.env",
        "/api/v1/orders%2F..%2Fproducts",
    ] {
        let request = buyer.request_root(Method::GET, path);
        let answer = trial.refuse(path, &buyer, request).await;
        assert_eq!(answer.status, 404, "{answer}");
    }
    for accept in ["", "text/html", "application/xml;q=1", "*/*;q=banana", &"a/b,".repeat(500)] {
        let request =
            buyer.request(Method::GET, "/orders/nothing").header("Accept", accept).header("Range", "bytes=5-1");
        trial.refuse(accept, &buyer, request).await;
    }
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_korean_is_answered_in_korean() {
    let trial = Trial::start().await;
    let sold_out = trial.site.product(0).await;
    let refused = async |language: &str| {
        let order = json!({ "items": [{ "productId": sold_out.id, "quantity": 1 }] });
        let request = trial.buyer.placing(&fresh_key(), &order).header("Accept-Language", language);
        let problem = trial.buyer.send(request).await.refused(409, "OUT_OF_STOCK");
        problem["message"].as_str().unwrap_or_default().to_owned()
    };
    let korean = "요청 수량만큼 재고가 없습니다.";
    assert_eq!(refused("ko").await, korean);
    for first in ["ko,en", "ko_KR", "fr,ko;q=0.5", "ko-KR,ko;q=0.9,en-US;q=0.8,en;q=0.7"] {
        assert_eq!(refused(first).await, korean, "{first}");
    }
    let without = trial.buyer.request(Method::GET, "/orders?limit=0").header("Accept-Language", "ko");
    let problem = trial.buyer.send(without).await.refused(400, "VALIDATION_ERROR");
    assert_eq!(problem["details"][0]["message"], "1에서 100 사이여야 합니다.", "{problem}");
    assert_eq!(problem["detail"], problem["message"], "{problem}");
    for other in ["en", "en-US,en;q=0.9,ko;q=0.8", "fr", "*", "", "ko;q=0", ";;;", "ko;q=banana"] {
        let message = refused(other).await;
        assert!(message.is_ascii() && !message.is_empty(), "{other}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_is_taken_over_when_it_is_one_and_made_up_otherwise() {
    let trial = Trial::start().await;
    let ask = async |id: &[u8]| {
        let id = reqwest::header::HeaderValue::from_bytes(id).expect("HTTP can carry it");
        let request = trial.buyer.request(Method::GET, "/orders/nothing").header("X-Request-Id", id);
        let answer = trial.buyer.send(request).await;
        answer.problem();
        answer.header("X-Request-Id").unwrap_or_default().to_owned()
    };
    assert_eq!(ask(b"my-request-7").await, "my-request-7");
    for garbage in [&b""[..], &[b'x'; 5000], b"\xff\xfe", "요청".as_bytes()] {
        let made_up = ask(garbage).await;
        assert!(!made_up.is_empty() && made_up.len() <= 200 && made_up.as_bytes() != garbage, "{made_up}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_hardly_http_harm_nobody() {
    let trial = Trial::start().await;
    let address = trial.site.api.trim_start_matches("http://").to_owned();
    let token = trial.buyer.token.clone().expect("a buyer has one");
    let head = format!(
        "POST /api/v1/orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nIdempotency-Key: k\r\nContent-Type: application/json\r\n"
    );
    let order = json!({ "items": [{ "productId": trial.product.id, "quantity": 1 }] }).to_string();
    let requests: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("noise", vec![0xff; 2000]),
        ("TLS", vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03]),
        ("HTTP/0.9", b"GET /\r\n".to_vec()),
        ("HTTP/2 without asking", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("a header without end", [head.as_bytes(), &b"X-A: a\r\n".repeat(20_000)].concat()),
        ("a header of a megabyte", [head.as_bytes(), b"X-A: ", &vec![b'a'; 1 << 20], b"\r\n\r\n"].concat()),
        ("two lengths", format!("{head}Content-Length: {}\r\nContent-Length: 3\r\n\r\n{order}", order.len()).into()),
        (
            "a length and chunks",
            format!(
                "{head}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{order}\r\n0\r\n\r\n",
                order.len()
            )
            .into(),
        ),
        ("chunks of no length", format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n{order}\r\n0\r\n\r\n").into()),
        ("a negative length", format!("{head}Content-Length: -1\r\n\r\n{order}").into()),
        ("a length beyond counting", format!("{head}Content-Length: 99999999999999999999\r\n\r\n{order}").into()),
        ("a NUL in a header", format!("{head}X-A: a\0b\r\nContent-Length: {}\r\n\r\n{order}", order.len()).into()),
        ("a body that is cut off", format!("{head}Content-Length: {}\r\n\r\n{}", order.len() + 10, order).into()),
    ];
    for (what, bytes) in requests {
        let mut stream = TcpStream::connect(&address).await.expect("the site accepts");
        // The other side may have hung up already.
        drop(stream.write_all(&bytes).await);
        drop(stream.shutdown().await);
        let mut answer = Vec::new();
        drop(tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
        assert!(status.is_empty() || status.starts_with('4'), "{what}: {answer}");
    }
    trial.buyer.get("/orders").await.expect(200);
    trial.end().await;
}
