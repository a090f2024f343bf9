//! Good and forged requests to a webhook. Uses nothing of this crate, so that the tests over HTTP can include it too.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};

pub const SECRET: &str = "whsec_bmV3IHNlY3JldCBmb3IgdGVzdHMsIDMyIGJ5dGVzIQ==";
/// The one before it, which is still accepted.
pub const OLD_SECRET: &str = "whsec_b2xkIHNlY3JldCBmb3IgdGVzdHMsIDMyIGJ5dGVzIQ==";
const STRANGERS_SECRET: &str = "whsec_c3RyYW5nZXIncyBzZWNyZXQsIGFsc28gMzIgYnl0ZXM=";

/// A request, and whether a receiver with [`SECRET`] and [`OLD_SECRET`] is to accept it.
pub struct Case {
    pub name: &'static str,
    pub is_good: bool,
    pub headers: Vec<(&'static str, Vec<u8>)>,
    pub body: Vec<u8>,
}

/// `v1,` and the signature.
pub fn signature(secret: &str, id: &str, timestamp: &str, body: &[u8]) -> String {
    let bytes = STANDARD.decode(secret.trim_start_matches("whsec_")).expect("base64");
    let content = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
    format!("v1,{}", STANDARD.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), &content)))
}

fn case(name: &'static str, is_good: bool, id: &str, timestamp: &str, signature: &str, body: &[u8]) -> Case {
    let headers = vec![
        ("webhook-id", id.as_bytes().to_vec()),
        ("webhook-timestamp", timestamp.as_bytes().to_vec()),
        ("webhook-signature", signature.as_bytes().to_vec()),
    ];
    Case { name, is_good, headers, body: body.to_vec() }
}

/// A good one.
pub fn signed_at(name: &'static str, at: DateTime<Utc>, id: &str, body: &[u8]) -> Case {
    let timestamp = at.timestamp().to_string();
    case(name, true, id, &timestamp, &signature(SECRET, id, &timestamp, body), body)
}

/// What the provider says when money of `payment` has moved.
pub fn approved(payment: &str) -> Vec<u8> {
    format!(
        r#"{{"type":"payment.approved","timestamp":"2026-11-21T00:00:00Z","data":{{"paymentId":"20261121NP0000000001","merchantPayKey":"{payment}","amount":1000,"currency":"KRW"}}}}"#
    )
    .into_bytes()
}

/// Each good case has an id of its own, so that the stored rows can be counted.
pub fn cases(now: DateTime<Utc>, payment: &str) -> Vec<Case> {
    [good(now, payment), forged(now, payment), misspelt_times(now, payment), misspelt_headers(now, payment)]
        .into_iter()
        .flatten()
        .collect()
}

fn good(now: DateTime<Utc>, payment: &str) -> Vec<Case> {
    let (body, at) = (approved(payment), now.timestamp().to_string());
    let by = |secret, id| signature(secret, id, &at, &body);
    let strangers = by(STRANGERS_SECRET, "msg_several");
    let several = format!("{strangers} v2,AAAA {} v1a,AAAA", by(SECRET, "msg_several"));
    vec![
        signed_at("signed", now, "msg_signed", &body),
        case("signed with the old secret", true, "msg_old", &at, &by(OLD_SECRET, "msg_old"), &body),
        case("one of several signatures", true, "msg_several", &at, &several, &body),
        case("two spaces between", true, "msg_spaces", &at, &format!("v1,AAAA  {}", by(SECRET, "msg_spaces")), &body),
        signed_at("four minutes old", now - TimeDelta::minutes(4), "msg_minutes", &body),
        signed_at("not JSON", now, "msg_text", b"hello"),
        signed_at("not UTF-8", now, "msg_bytes", &[0xff, 0x00, 0xfe]),
        signed_at("an empty body", now, "msg_empty", b""),
    ]
}

fn forged(now: DateTime<Utc>, payment: &str) -> Vec<Case> {
    let (body, at) = (approved(payment), now.timestamp().to_string());
    let by = |secret, id| signature(secret, id, &at, &body);
    let bad = |name, id: &str, signature: &str, body: &[u8]| case(name, false, id, &at, signature, body);
    let tampered = [&body[..body.len() - 1], b" }"].concat();
    let right = by(SECRET, "msg_a");
    let encoded = right.trim_start_matches("v1,");
    let mut flipped = STANDARD.decode(encoded).expect("base64");
    flipped[31] ^= 1;
    let nobodys = signature(SECRET, "", &at, &body);
    let earlier = signature(SECRET, "msg_i", &(now - TimeDelta::seconds(1)).timestamp().to_string(), &body);
    let dotted = signature(SECRET, "msg.j", &at, &body);
    vec![
        bad("no signature", "msg_b", "", &body),
        bad("a stranger's secret", "msg_c", &by(STRANGERS_SECRET, "msg_c"), &body),
        bad("the signature of another id", "msg_d", &right, &body),
        bad("the signature of another body", "msg_e", &signature(SECRET, "msg_e", &at, b"{}"), &body),
        bad("the signature of another time", "msg_i", &earlier, &body),
        bad("a body with one byte more", "msg_a", &right, &tampered),
        bad("a body that was cut off", "msg_a", &right, &body[..body.len() - 1]),
        bad("no body", "msg_a", &right, b""),
        bad("a signature with one bit flipped", "msg_a", &format!("v1,{}", STANDARD.encode(&flipped)), &body),
        bad("half a signature", "msg_a", &format!("v1,{}", STANDARD.encode(&flipped[..16])), &body),
        bad("cut base64", "msg_a", &right[..right.len() - 2], &body),
        bad("base64 with more after it", "msg_a", &format!("{right}AAAA"), &body),
        bad("garbage", "msg_a", "v1,!!!not base64!!!", &body),
        bad("an empty signature", "msg_a", "v1,", &body),
        bad("no scheme", "msg_a", encoded, &body),
        bad("another scheme", "msg_a", &format!("v2,{encoded}"), &body),
        bad("the scheme in capitals", "msg_a", &format!("V1,{encoded}"), &body),
        bad("signatures separated by commas", "msg_a", &format!("v1,AAAA,{right}"), &body),
        bad("a signature in hexadecimal", "msg_a", &format!("v1,{}", "ab".repeat(32)), &body),
        bad("the secret itself", "msg_a", &format!("v1,{}", SECRET.trim_start_matches("whsec_")), &body),
        bad("more signatures than anybody sends", "msg_a", &format!("{}{right}", "v1,AAAA ".repeat(8)), &body),
        bad("an empty id", "", &nobodys, &body),
        bad("an id with a full stop", "msg.j", &dotted, &body),
        bad("a long id", &"m".repeat(129), &signature(SECRET, &"m".repeat(129), &at, &body), &body),
    ]
}

fn misspelt_times(now: DateTime<Utc>, payment: &str) -> Vec<Case> {
    let body = approved(payment);
    let at = now.timestamp();
    // Each is signed as it is written: the time alone is what is wrong with it.
    let bad = |name, id: &str, timestamp: String| {
        case(name, false, id, &timestamp, &signature(SECRET, id, &timestamp, &body), &body)
    };
    vec![
        bad("replayed after six minutes", "msg_k", (at - 360).to_string()),
        bad("replayed after a day", "msg_l", (at - 86_400).to_string()),
        bad("six minutes ahead", "msg_m", (at + 360).to_string()),
        bad("a year ahead", "msg_n", (at + 31_536_000).to_string()),
        bad("in milliseconds", "msg_o", (at * 1_000).to_string()),
        bad("the beginning of time", "msg_p", "0".to_owned()),
        bad("negative", "msg_q", format!("-{at}")),
        bad("with a sign", "msg_r", format!("+{at}")),
        bad("a fraction", "msg_s", format!("{at}.5")),
        bad("a huge number", "msg_t", "9".repeat(40)),
        bad("the largest number", "msg_u", i64::MAX.to_string()),
        bad("hexadecimal", "msg_v", format!("0x{at:x}")),
        bad("a date", "msg_w", now.to_rfc3339()),
        bad("no time", "msg_x", String::new()),
        bad("a space within", "msg_y", format!("{} {}", at / 10, at % 10)),
        bad("leading zeros", "msg_z", format!("00000{at}")),
    ]
}

fn misspelt_headers(now: DateTime<Utc>, payment: &str) -> Vec<Case> {
    let body = approved(payment);
    let without = |name, id, missing: &str| {
        let mut case = signed_at(name, now, id, &body);
        case.headers.retain(|(header, _)| *header != missing);
        Case { is_good: false, ..case }
    };
    let twice = |name, id, header: &'static str, second: &[u8]| {
        let mut case = signed_at(name, now, id, &body);
        case.headers.push((header, second.to_vec()));
        Case { is_good: false, ..case }
    };
    let replaced = |name, id, header: &str, value: &[u8]| {
        let mut case = signed_at(name, now, id, &body);
        case.headers.iter_mut().filter(|(known, _)| *known == header).for_each(|(_, old)| *old = value.to_vec());
        Case { is_good: false, ..case }
    };
    let at = now.timestamp().to_string();
    vec![
        without("no id", "msg_aa", "webhook-id"),
        without("no timestamp", "msg_ab", "webhook-timestamp"),
        without("no signature header", "msg_ac", "webhook-signature"),
        Case { name: "no header at all", is_good: false, headers: Vec::new(), body: body.clone() },
        twice("two ids", "msg_ad", "webhook-id", b"msg_ae"),
        twice("the same id twice", "msg_af", "webhook-id", b"msg_af"),
        twice("two times", "msg_ag", "webhook-timestamp", at.as_bytes()),
        twice("two signature headers", "msg_ah", "webhook-signature", b"v1,AAAA"),
        replaced("an id beyond ASCII", "msg_ai", "webhook-id", "msg_é".as_bytes()),
        replaced("an id with a space", "msg_aj", "webhook-id", b"msg aj"),
        replaced("a time beyond ASCII", "msg_ak", "webhook-timestamp", "１７".as_bytes()),
        replaced("a signature beyond ASCII", "msg_al", "webhook-signature", "v1,é".as_bytes()),
    ]
}
