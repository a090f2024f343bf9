//! Whatever the provider says, and however it fails to: over a socket, so that broken answers are really broken.

use contract::ids::{AccountId, PaymentAttemptId, RefundId};
use contract::money::KRW;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::history::{CAPTURE, FULL_CANCEL, PARTIAL_CANCEL, judge};
use super::*;

fn approval() -> Approval {
    Approval {
        attempt: PaymentAttemptId::generate(),
        key: "k".to_owned(),
        payment: PaymentId::generate(),
        user: AccountId::generate(),
        pg_payment_id: "P1".to_owned(),
        amount: 1_000,
        currency: KRW.to_owned(),
    }
}

fn row(approval: &Approval, kind: &str, amount: i64) -> Row {
    serde_json::from_value(told(approval, kind, amount)).unwrap()
}

/// A row as the provider writes it.
fn told(approval: &Approval, kind: &str, amount: i64) -> Value {
    json!({
        "paymentId": approval.pg_payment_id,
        "payHistId": "H1",
        "merchantPayKey": approval.payment,
        "admissionTypeCode": kind,
        "admissionState": "SUCCESS",
        "admissionYmdt": "20261121000001",
        "totalPayAmount": amount,
    })
}

#[test]
fn only_the_capture_that_was_asked_for_counts() {
    let approval = approval();
    let capture = || row(&approval, CAPTURE, 1_000);
    assert_eq!(judge(&[], &approval), Known::Absent);
    assert_eq!(judge(&[capture()], &approval), Known::Captured);
    assert_eq!(judge(&[Row { admission_state: "FAIL".to_owned(), ..capture() }], &approval), Known::Absent);
    assert_eq!(judge(&[Row { payment_id: "P2".to_owned(), ..capture() }], &approval), Known::Absent);
    let for_another = || Row { merchant_pay_key: "x".to_owned(), ..capture() };
    // Somebody names what somebody else has paid with: that is not touched.
    assert_eq!(judge(&[for_another()], &approval), Known::Foreign);
    assert_eq!(judge(&[for_another(), row(&approval, FULL_CANCEL, 1_000)], &approval), Known::Foreign);
    // The buyer has authorised another amount.
    assert_eq!(judge(&[row(&approval, CAPTURE, 999)], &approval), Known::WrongAmount { left: 999 });
    let part = [row(&approval, CAPTURE, 999), row(&approval, PARTIAL_CANCEL, 400)];
    assert_eq!(judge(&part, &approval), Known::WrongAmount { left: 599 });
    let back = [row(&approval, CAPTURE, 999), row(&approval, FULL_CANCEL, 999)];
    assert_eq!(judge(&back, &approval), Known::Cancelled, "it is over");
}

#[test]
fn money_is_gone_when_all_of_it_went_back() {
    let approval = approval();
    let capture = || row(&approval, CAPTURE, 1_000);
    assert_eq!(judge(&[capture(), row(&approval, FULL_CANCEL, 1_000)], &approval), Known::Cancelled);
    assert_eq!(judge(&[capture(), row(&approval, PARTIAL_CANCEL, 400)], &approval), Known::Captured);
    let twice = [capture(), row(&approval, PARTIAL_CANCEL, 400), row(&approval, PARTIAL_CANCEL, 600)];
    assert_eq!(judge(&twice, &approval), Known::Cancelled);
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

async fn approved(approval: &Approval, replies: Vec<Reply>) -> Approved {
    let (provider, served) = provider(replies).await;
    let approved = provider.approve(approval).await;
    served.await.unwrap();
    approved
}

/// The kind of outcome and its code.
fn outcome(approved: Approved) -> (&'static str, String) {
    match approved {
        Approved::Captured => ("captured", String::new()),
        Approved::Declined { code, .. } => ("declined", code),
        Approved::NotDone { code, .. } => ("not done", code),
        Approved::Unknown { code, .. } => ("unknown", code),
    }
}

#[tokio::test]
async fn every_answer_to_an_approval_has_its_meaning() {
    let approval = approval();
    let right = || told(&approval, CAPTURE, 1_000);
    let changed = |member: &str, value: Value| {
        let mut row = right();
        row[member] = value;
        captured(row)
    };
    let cut = || Reply::Bytes("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"code\":\"Success\",".to_owned());
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
        ("maintenance", vec![code("MaintenanceOngoing")], "not done", "MaintenanceOngoing"),
        ("maintenance", vec![code("InvalidMerchant")], "not done", "InvalidMerchant"),
        ("under way", vec![code("AlreadyOnGoing")], "unknown", "AlreadyOnGoing"),
        ("failed", vec![code("Fail")], "unknown", "Fail"),
        ("a code of tomorrow", vec![code("Tomorrow")], "unknown", "Tomorrow"),
        ("done before", vec![code("AlreadyComplete"), history(vec![right()])], "captured", ""),
        ("done before?", vec![code("AlreadyComplete"), history(vec![])], "unknown", "AlreadyComplete"),
        ("done before?", vec![code("AlreadyComplete"), Reply::Silence], "unknown", "AlreadyComplete"),
        ("500", vec![Reply::Whole("500 Oops", json!({ "code": "Success" }))], "unknown", "NO_ANSWER"),
        ("503 of a proxy", vec![Reply::Whole("503 Busy", json!({ "code": "Fail" }))], "unknown", "NO_ANSWER"),
        ("elsewhere", vec![Reply::Whole("302 Found", json!({ "code": "Fail" }))], "unknown", "NO_ANSWER"),
        ("not an object", vec![ok(json!([1, 2]))], "unknown", "NO_ANSWER"),
        ("no code", vec![ok(json!({ "message": "m" }))], "unknown", "NO_ANSWER"),
        ("not HTTP", vec![Reply::Bytes("hello\r\n\r\n".to_owned())], "unknown", "NO_ANSWER"),
        ("cut off", vec![cut()], "unknown", "NO_ANSWER"),
        ("closed at once", vec![Reply::Bytes(String::new())], "unknown", "NO_ANSWER"),
        ("silent", vec![Reply::Silence], "unknown", "NO_ANSWER"),
        ("400 with a code", vec![Reply::Whole("400 Bad", json!({ "code": "TimeExpired" }))], "declined", "TimeExpired"),
    ];
    for (name, replies, kind, code) in cases {
        assert_eq!(outcome(approved(&approval, replies).await), (kind, code.to_owned()), "{name}");
    }
}

#[tokio::test]
async fn a_request_that_was_not_sent_has_charged_nobody() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    assert_eq!(outcome(client(port).approve(&approval()).await), ("not done", "NOT_SENT".to_owned()));
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_the_end() {
    let body = "x".repeat(ANSWER_BYTES_MAX + 1);
    let endless = Reply::Bytes(format!("HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n{body}"));
    assert_eq!(outcome(approved(&approval(), vec![endless]).await), ("unknown", "NO_ANSWER".to_owned()));
}

#[tokio::test]
async fn an_approval_carries_its_key_and_our_name() {
    let (provider, served) = provider(vec![code("Fail")]).await;
    let approval = approval();
    provider.approve(&approval).await;
    let request = served.await.unwrap().remove(0).to_lowercase();
    assert!(request.starts_with("post /naverpay-partner/naverpay/payments/v2.2/apply/payment "), "{request}");
    for line in
        ["x-naverpay-idempotency-key: k", "x-naver-client-id: id", "x-naver-client-secret: secret", "paymentid=p1"]
    {
        assert!(request.contains(line), "{request}");
    }
}

#[test]
fn an_id_stays_in_its_field() {
    assert_eq!(form_encoded("20261121NP0000000001"), "20261121NP0000000001");
    assert_eq!(form_encoded("a&b=c d%é"), "a%26b%3Dc%20d%25%C3%A9");
}

#[tokio::test]
async fn every_answer_about_an_attempt_has_its_meaning() {
    let approval = approval();
    let right = || told(&approval, CAPTURE, 1_000);
    let page = |rows: Vec<Value>, pages: u32| {
        ok(json!({ "code": "Success", "body": { "list": rows, "totalCount": 150, "totalPageCount": pages } }))
    };
    let failed = || {
        let mut row = right();
        row["admissionState"] = json!("FAIL");
        row
    };
    let cases = [
        (vec![history(vec![right()])], Known::Captured),
        (vec![history(vec![])], Known::Absent),
        (vec![code("Success")], Known::Absent),
        (vec![history(vec![right(), told(&approval, FULL_CANCEL, 1_000)])], Known::Cancelled),
        (vec![code("MaintenanceOngoing")], Known::Unclear("MaintenanceOngoing".to_owned())),
        (vec![Reply::Whole("500 Oops", json!({}))], Known::Unclear("HTTP 500".to_owned())),
        // The capture is on the second page.
        (vec![page(vec![failed()], 2), page(vec![right()], 2)], Known::Captured),
    ];
    for (replies, expected) in cases {
        let (provider, served) = provider(replies).await;
        assert_eq!(provider.known(&approval).await, expected);
        served.await.unwrap();
    }
    // The second page is missing: nothing is known.
    let (provider, served) = provider(vec![page(vec![failed()], 2), Reply::Bytes(String::new())]).await;
    assert!(matches!(provider.known(&approval).await, Known::Unclear(_)));
    served.await.unwrap();
}

#[tokio::test]
async fn every_answer_to_a_refund_has_its_meaning() {
    let approval = approval();
    let giveback = Giveback {
        refund: RefundId::generate(),
        payment: approval.payment,
        user: approval.user,
        pg_payment_id: approval.pg_payment_id.clone(),
        amount: 400,
        reason: "r".to_owned(),
    };
    let refused = |code: &str| GivenBack::Refused { code: code.to_owned() };
    let unknown = |code: &str| GivenBack::Unknown { code: code.to_owned() };
    let success = |payment: &str| ok(json!({ "code": "Success", "message": "m", "body": { "paymentId": payment } }));
    let cases = [
        (success("P1"), GivenBack::Done),
        (success("P2"), unknown("MISMATCH")),
        (code("OverRemainAmount"), refused("OverRemainAmount")),
        (code("AlreadyCanceled"), refused("AlreadyCanceled")),
        (code("CancelNotComplete"), unknown("CancelNotComplete")),
        (code("Fail"), unknown("Fail")),
        (Reply::Whole("500 Oops", json!({})), unknown("HTTP 500")),
    ];
    for (reply, expected) in cases {
        let (provider, served) = provider(vec![reply]).await;
        assert_eq!(provider.give_back(&giveback).await, expected);
        let request = served.await.unwrap().remove(0);
        assert!(
            request.contains(&giveback.refund.to_string()) && request.contains("\"cancelAmount\":400"),
            "{request}"
        );
    }
    let (provider, _served) = provider(vec![Reply::Silence]).await;
    assert!(matches!(provider.give_back(&giveback).await, GivenBack::Unknown { .. }));
}

#[tokio::test]
async fn a_page_of_the_book_has_the_money_that_moved() {
    let approval = approval();
    let mut failed = told(&approval, CAPTURE, 5);
    failed["admissionState"] = json!("FAIL");
    let rows = vec![told(&approval, CAPTURE, 1_000), failed, told(&approval, PARTIAL_CANCEL, 400)];
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
        let mut row = told(&approval, CAPTURE, 1_000);
        row[member] = value;
        let (provider, _served) = self::provider(vec![history(vec![row])]).await;
        assert!(provider.book_page(&Of::Payment("P1"), 1).await.is_err(), "{member}");
    }
}
