//! Every answer of the provider, and every way in which it can fail to answer, over a real socket.

use contract::ids::{AccountId, PaymentAttemptId, PaymentId, RefundId};
use contract::money::KRW;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::client::ANSWER_BYTES_MAX;
use super::history::{CAPTURE, FULL_CANCEL, PARTIAL_CANCEL, status};
use super::*;

fn attempt() -> Attempt {
    Attempt {
        id: PaymentAttemptId::generate(),
        key: "k".to_owned(),
        payment: PaymentId::generate(),
        user: AccountId::generate(),
        pg_payment_id: "P1".to_owned(),
        amount: 1_000,
        currency: KRW.to_owned(),
    }
}

fn row(attempt: &Attempt, kind: &str, amount: i64) -> Row {
    serde_json::from_value(row_json(attempt, kind, amount)).unwrap()
}

/// A row as the provider writes it.
fn row_json(attempt: &Attempt, kind: &str, amount: i64) -> Value {
    json!({
        "paymentId": attempt.pg_payment_id,
        "payHistId": "H1",
        "merchantPayKey": attempt.payment,
        "admissionTypeCode": kind,
        "admissionState": "SUCCESS",
        "admissionYmdt": "20261121000001",
        "totalPayAmount": amount,
    })
}

#[test]
fn only_the_capture_that_was_asked_for_counts() {
    let attempt = attempt();
    let capture = || row(&attempt, CAPTURE, 1_000);
    assert_eq!(status(&[], &attempt), ProviderStatus::Absent);
    assert_eq!(status(&[capture()], &attempt), ProviderStatus::Captured);
    assert_eq!(status(&[Row { admission_state: "FAIL".to_owned(), ..capture() }], &attempt), ProviderStatus::Absent);
    assert_eq!(status(&[Row { payment_id: "P2".to_owned(), ..capture() }], &attempt), ProviderStatus::Absent);
    let for_another = || Row { merchant_pay_key: "x".to_owned(), ..capture() };
    // Somebody names what somebody else has paid with: that is not touched.
    assert_eq!(status(&[for_another()], &attempt), ProviderStatus::Foreign);
    assert_eq!(status(&[for_another(), row(&attempt, FULL_CANCEL, 1_000)], &attempt), ProviderStatus::Foreign);
    // The buyer has authorised another amount.
    assert_eq!(status(&[row(&attempt, CAPTURE, 999)], &attempt), ProviderStatus::WrongAmount { left: 999 });
    let part = [row(&attempt, CAPTURE, 999), row(&attempt, PARTIAL_CANCEL, 400)];
    assert_eq!(status(&part, &attempt), ProviderStatus::WrongAmount { left: 599 });
    let back = [row(&attempt, CAPTURE, 999), row(&attempt, FULL_CANCEL, 999)];
    assert_eq!(status(&back, &attempt), ProviderStatus::Cancelled, "it is over");
}

#[test]
fn a_capture_that_was_refunded_in_full_is_cancelled() {
    let attempt = attempt();
    let capture = || row(&attempt, CAPTURE, 1_000);
    assert_eq!(status(&[capture(), row(&attempt, FULL_CANCEL, 1_000)], &attempt), ProviderStatus::Cancelled);
    assert_eq!(status(&[capture(), row(&attempt, PARTIAL_CANCEL, 400)], &attempt), ProviderStatus::Captured);
    let twice = [capture(), row(&attempt, PARTIAL_CANCEL, 400), row(&attempt, PARTIAL_CANCEL, 600)];
    assert_eq!(status(&twice, &attempt), ProviderStatus::Cancelled);
}

/// What the other side does with one request.
enum Reply {
    /// Status line and body.
    Whole(&'static str, Value),
    /// These bytes, and no more.
    Bytes(String),
    /// Nothing, for longer than anybody waits.
    Silence,
}

fn ok(body: Value) -> Reply {
    Reply::Whole("200 OK", body)
}

fn code(code: &str) -> Reply {
    ok(json!({ "code": code, "message": "m", "body": null }))
}

fn captured(detail: Value) -> Reply {
    ok(json!({ "code": "Success", "message": "m", "body": { "paymentId": detail["paymentId"], "detail": detail } }))
}

fn history(rows: Vec<Value>) -> Reply {
    let count = rows.len();
    ok(json!({ "code": "Success", "message": "m",
        "body": { "list": rows, "totalCount": count, "totalPageCount": 1, "responseCount": count } }))
}

/// A provider that answers these requests in turn, and then the requests that it got.
async fn provider(replies: Vec<Reply>) -> (NaverPay, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(listener.local_addr().unwrap().port());
    let served = tokio::spawn(async move {
        let mut requests = Vec::new();
        for reply in replies {
            let (mut socket, _) = listener.accept().await.unwrap();
            requests.push(request(&mut socket).await);
            let bytes = match reply {
                Reply::Whole(status, body) => {
                    let body = body.to_string();
                    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
                }
                Reply::Bytes(bytes) => bytes,
                Reply::Silence => {
                    // Until the client gives up.
                    let _ = socket.read(&mut [0]).await;
                    continue;
                }
            };
            socket.write_all(bytes.as_bytes()).await.unwrap();
        }
        requests
    });
    (client, served)
}

fn client(port: u16) -> NaverPay {
    let url = format!("http://127.0.0.1:{port}");
    let settings = Settings {
        checkout_url: format!("{url}/checkout"),
        url,
        client_id: "id".to_owned(),
        client_secret: "secret".into(),
        chain_id: "chain".to_owned(),
        connect_timeout_ms: 1_000,
        read_timeout_ms: 300,
        query_timeout_ms: 300,
    };
    NaverPay::new(&settings).unwrap()
}

/// Head and body.
async fn request(socket: &mut TcpStream) -> String {
    let mut text = String::new();
    loop {
        let mut buffer = [0; 4096];
        let count = socket.read(&mut buffer).await.unwrap();
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if count == 0 || body.len() >= length.unwrap_or(0) {
            return text;
        }
    }
}

async fn capture(attempt: &Attempt, replies: Vec<Reply>) -> CaptureOutcome {
    let (provider, served) = provider(replies).await;
    let outcome = provider.capture(attempt).await;
    served.await.unwrap();
    outcome
}

/// The kind of outcome and its code.
fn kind_and_code(outcome: CaptureOutcome) -> (&'static str, String) {
    match outcome {
        CaptureOutcome::Captured => ("captured", String::new()),
        CaptureOutcome::Declined { code, .. } => ("declined", code),
        CaptureOutcome::Failed { code, .. } => ("failed", code),
        CaptureOutcome::Unknown { code, .. } => ("unknown", code),
    }
}

#[tokio::test]
async fn every_answer_to_a_capture_has_its_meaning() {
    let attempt = attempt();
    let right = || row_json(&attempt, CAPTURE, 1_000);
    let changed = |member: &str, value: Value| {
        let mut row = right();
        row[member] = value;
        captured(row)
    };
    let cases = [
        ("success", vec![captured(right())], "captured", ""),
        ("another payment", vec![changed("paymentId", json!("P2"))], "unknown", "MISMATCH"),
        ("another key", vec![changed("merchantPayKey", json!("x"))], "unknown", "MISMATCH"),
        ("another amount", vec![changed("totalPayAmount", json!(1))], "unknown", "MISMATCH"),
        ("a failure that calls itself success", vec![changed("admissionState", json!("FAIL"))], "unknown", "MISMATCH"),
        ("success without particulars", vec![code("Success")], "unknown", "MISMATCH"),
        ("declined", vec![code("NotEnoughAccountBalance")], "declined", "NotEnoughAccountBalance"),
        ("declined", vec![code("OwnerAuthFail")], "declined", "OwnerAuthFail"),
        ("declined", vec![code("TimeExpired")], "declined", "TimeExpired"),
        ("declined", vec![code("InvalidPaymentId")], "declined", "InvalidPaymentId"),
        ("maintenance", vec![code("MaintenanceOngoing")], "failed", "MaintenanceOngoing"),
        ("maintenance", vec![code("InvalidMerchant")], "failed", "InvalidMerchant"),
        ("in progress", vec![code("AlreadyOnGoing")], "unknown", "AlreadyOnGoing"),
        ("failed", vec![code("Fail")], "unknown", "Fail"),
        ("a code that we do not know", vec![code("Tomorrow")], "unknown", "Tomorrow"),
        ("captured before", vec![code("AlreadyComplete"), history(vec![right()])], "captured", ""),
        ("captured before?", vec![code("AlreadyComplete"), history(vec![])], "unknown", "AlreadyComplete"),
        ("captured before?", vec![code("AlreadyComplete"), Reply::Silence], "unknown", "AlreadyComplete"),
        ("400 with a code", vec![Reply::Whole("400 Bad", json!({ "code": "TimeExpired" }))], "declined", "TimeExpired"),
    ];
    for (name, replies, kind, code) in cases {
        assert_eq!(kind_and_code(capture(&attempt, replies).await), (kind, code.to_owned()), "{name}");
    }
}

#[tokio::test]
async fn without_a_usable_answer_the_money_may_have_been_captured() {
    let attempt = attempt();
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"code\":\"Success\",".to_owned();
    let cases = [
        ("silence", Reply::Silence),
        ("closed at once", Reply::Bytes(String::new())),
        ("cut off", Reply::Bytes(cut)),
        ("not HTTP", Reply::Bytes("hello\r\n\r\n".to_owned())),
        ("500", Reply::Whole("500 Oops", json!({ "code": "Success" }))),
        ("503 of a proxy", Reply::Whole("503 Busy", json!({ "code": "Fail" }))),
        ("a redirect", Reply::Whole("302 Found", json!({ "code": "Fail" }))),
        ("not an object", ok(json!([1, 2]))),
        ("no code", ok(json!({ "message": "m" }))),
    ];
    for (name, reply) in cases {
        let outcome = capture(&attempt, vec![reply]).await;
        assert_eq!(kind_and_code(outcome), ("unknown", "NO_ANSWER".to_owned()), "{name} proves nothing");
    }
}

#[tokio::test]
async fn a_request_that_was_not_sent_charges_nobody() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    assert_eq!(kind_and_code(client(port).capture(&attempt()).await), ("failed", "NOT_SENT".to_owned()));
}

#[tokio::test]
async fn an_endless_answer_is_not_read_to_its_end() {
    let body = "x".repeat(ANSWER_BYTES_MAX + 1);
    let endless = Reply::Bytes(format!("HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n{body}"));
    assert_eq!(kind_and_code(capture(&attempt(), vec![endless]).await), ("unknown", "NO_ANSWER".to_owned()));
}

#[tokio::test]
async fn a_capture_carries_the_attempts_key_and_our_credentials() {
    let (provider, served) = provider(vec![code("Fail")]).await;
    let attempt = attempt();
    provider.capture(&attempt).await;
    let request = served.await.unwrap().remove(0).to_lowercase();
    assert!(request.starts_with("post /naverpay-partner/naverpay/payments/v2.2/apply/payment "), "{request}");
    for line in
        ["x-naverpay-idempotency-key: k", "x-naver-client-id: id", "x-naver-client-secret: secret", "paymentid=p1"]
    {
        assert!(request.contains(line), "{request}");
    }
}

/// The id comes from a client.
#[tokio::test]
async fn an_id_with_any_characters_stays_in_its_form_field() {
    let (provider, served) = provider(vec![code("Fail")]).await;
    let attempt = Attempt { pg_payment_id: "a&b=c d%é".to_owned(), ..attempt() };
    provider.capture(&attempt).await;
    let request = served.await.unwrap().remove(0);
    assert!(request.to_lowercase().contains("content-type: application/x-www-form-urlencoded"), "{request}");
    assert!(request.ends_with("\r\n\r\npaymentId=a%26b%3Dc+d%25%C3%A9"), "{request}");
}

#[tokio::test]
async fn every_answer_about_an_attempt_has_its_meaning() {
    let attempt = attempt();
    let right = || row_json(&attempt, CAPTURE, 1_000);
    let page = |rows: Vec<Value>, pages: u32| {
        ok(json!({ "code": "Success", "body": { "list": rows, "totalCount": 150, "totalPageCount": pages } }))
    };
    let failed = || {
        let mut row = right();
        row["admissionState"] = json!("FAIL");
        row
    };
    let cases = [
        (vec![history(vec![right()])], ProviderStatus::Captured),
        (vec![history(vec![])], ProviderStatus::Absent),
        (vec![code("Success")], ProviderStatus::Absent),
        (vec![history(vec![right(), row_json(&attempt, FULL_CANCEL, 1_000)])], ProviderStatus::Cancelled),
        (vec![code("MaintenanceOngoing")], ProviderStatus::Unclear("MaintenanceOngoing".to_owned())),
        (vec![Reply::Whole("500 Oops", json!({}))], ProviderStatus::Unclear("HTTP 500".to_owned())),
        // The capture is on the second page.
        (vec![page(vec![failed()], 2), page(vec![right()], 2)], ProviderStatus::Captured),
    ];
    for (replies, expected) in cases {
        let (provider, served) = provider(replies).await;
        assert_eq!(provider.query_status(&attempt).await, expected);
        served.await.unwrap();
    }
    // The second page is missing: nothing is known.
    let (provider, served) = provider(vec![page(vec![failed()], 2), Reply::Bytes(String::new())]).await;
    assert!(matches!(provider.query_status(&attempt).await, ProviderStatus::Unclear(_)));
    served.await.unwrap();
}

#[tokio::test]
async fn every_answer_to_a_refund_has_its_meaning() {
    let attempt = attempt();
    let request = RefundRequest {
        id: RefundId::generate(),
        payment: attempt.payment,
        user: attempt.user,
        pg_payment_id: attempt.pg_payment_id.clone(),
        amount: 400,
        reason: "r".to_owned(),
    };
    let refused = |code: &str| RefundOutcome::Refused { code: code.to_owned() };
    let unknown = |code: &str| RefundOutcome::Unknown { code: code.to_owned() };
    let success = |payment: &str| ok(json!({ "code": "Success", "message": "m", "body": { "paymentId": payment } }));
    let cases = [
        (success("P1"), RefundOutcome::Refunded),
        (success("P2"), unknown("MISMATCH")),
        (code("OverRemainAmount"), refused("OverRemainAmount")),
        (code("AlreadyCanceled"), refused("AlreadyCanceled")),
        (code("CancelNotComplete"), unknown("CancelNotComplete")),
        (code("Fail"), unknown("Fail")),
        (Reply::Whole("500 Oops", json!({})), unknown("HTTP 500")),
    ];
    for (reply, expected) in cases {
        let (provider, served) = provider(vec![reply]).await;
        assert_eq!(provider.refund(&request).await, expected);
        let sent = served.await.unwrap().remove(0);
        assert!(sent.contains(&request.id.to_string()) && sent.contains("\"cancelAmount\":400"), "{sent}");
    }
    let (provider, _served) = provider(vec![Reply::Silence]).await;
    assert!(matches!(provider.refund(&request).await, RefundOutcome::Unknown { .. }));
}

#[tokio::test]
async fn a_page_of_the_book_has_the_money_that_moved() {
    let attempt = attempt();
    let mut failed = row_json(&attempt, CAPTURE, 5);
    failed["admissionState"] = json!("FAIL");
    let rows = vec![row_json(&attempt, CAPTURE, 1_000), failed, row_json(&attempt, PARTIAL_CANCEL, 400)];
    let (provider, served) = provider(vec![history(rows)]).await;
    let from = "2026-11-20T15:00:00Z".parse().unwrap();
    let page = provider.book_page(&Of::Between(from, from + chrono::TimeDelta::days(1)), 1).await.unwrap();
    let moved: Vec<_> = page.entries.iter().map(|entry| (entry.movement, entry.amount)).collect();
    assert_eq!(moved, [(Movement::Capture, 1_000), (Movement::Cancel, 400)]);
    assert_eq!(page.entries[0].at, from + chrono::TimeDelta::seconds(1));
    assert!(page.is_last && page.rows == 3 && page.total == 3);
    let request = served.await.unwrap().remove(0);
    assert!(request.contains(r#""startTime":"20261121000000""#), "{request}");
    assert!(request.contains(r#""endTime":"20261121235959""#), "{request}");

    for (member, value) in [
        ("totalPayAmount", json!(0)),
        ("totalPayAmount", json!(-5)),
        ("admissionTypeCode", json!("99")),
        ("admissionYmdt", json!("yesterday")),
    ] {
        let mut row = row_json(&attempt, CAPTURE, 1_000);
        row[member] = value;
        let (provider, _served) = self::provider(vec![history(vec![row])]).await;
        assert!(provider.book_page(&Of::Payment("P1"), 1).await.is_err(), "{member}");
    }
}
