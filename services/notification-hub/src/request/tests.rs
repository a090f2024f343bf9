//! What a request may say, and what follows from it.

use serde_json::json;

use super::*;

const NOW: &str = "2026-11-28T00:00:00Z";

fn check(request: Value) -> Result<Requested> {
    check_as(Uuid::from_u128(1), Some("key"), request)
}

fn checked(request: Value) -> Result<Checked> {
    let key = IdempotencyKey::parse(b"key").unwrap();
    let request: SendNotification = serde_json::from_value(request).expect("it has the right form");
    request.check(Uuid::from_u128(1), Some(&key), NOW.parse().unwrap())
}

fn check_as(by: Uuid, key: Option<&str>, request: Value) -> Result<Requested> {
    let key = key.map(|key| IdempotencyKey::parse(key.as_bytes()).unwrap());
    let request: SendNotification = serde_json::from_value(request).expect("it has the right form");
    Ok(request.check(by, key.as_ref(), NOW.parse().unwrap())?.requested)
}

fn incident() -> Value {
    json!({ "type": "SYSTEM_INCIDENT", "channels": [{ "channel": "SLACK" }], "subject": "Down", "body": "All of it." })
}

fn with(name: &str, value: Value) -> Value {
    let mut request = incident();
    request[name] = value;
    request
}

/// The field and the code of the refusal.
fn refused(request: Value) -> (String, String) {
    match check(request.clone()).unwrap_err() {
        Error::Refused(refused) => {
            let field = refused.details.first().and_then(|detail| detail["field"].as_str());
            (field.unwrap_or_default().to_owned(), refused.code.reason.to_string())
        }
        Error::Fault(fault) => panic!("{fault:?}: {request}"),
    }
}

#[test]
fn the_key_or_the_event_of_a_caller_names_the_notification() {
    let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let id = |by, key, request: Value| check_as(by, key, request).unwrap().id;
    let of_event = with("eventId", json!("e"));
    assert_eq!(id(one, Some("k"), incident()), id(one, Some("k"), with("subject", json!("Other"))));
    assert_eq!(id(one, Some("k"), of_event.clone()), id(one, None, of_event.clone()), "the event comes first");
    let different = [
        id(one, Some("k"), incident()),
        id(one, Some("l"), incident()),
        id(two, Some("k"), incident()),
        id(one, None, of_event.clone()),
        id(two, None, of_event),
        id(one, Some("e"), incident()),
    ];
    for (place, id) in different.iter().enumerate() {
        assert!(!different[..place].contains(id), "{place}");
    }
    let error = check_as(one, None, incident()).unwrap_err();
    assert_eq!(error.reason(), Some("IDEMPOTENCY_KEY_REQUIRED"));
}

#[test]
fn another_request_has_another_fingerprint() {
    let fingerprint = |request| check(request).unwrap().fingerprint;
    assert_eq!(fingerprint(incident()), fingerprint(with("data", json!({}))));
    for other in [with("body", json!("x")), with("priority", json!("HIGH")), with("data", json!({ "a": 1 }))] {
        assert_ne!(fingerprint(incident()), fingerprint(other));
    }
}

#[test]
fn deliveries_have_one_order_and_ids_that_follow_from_the_notification() {
    let request = |channels: Value| {
        check(json!({
            "type": "T", "recipient": { "userId": Uuid::from_u128(9) }, "channels": channels, "subject": "s", "body": "b",
        }))
        .unwrap()
    };
    let email = json!({ "channel": "EMAIL" });
    let slack = json!({ "channel": "SLACK" });
    let (one, two) = (request(json!([email, slack])), request(json!([slack, email])));
    assert_eq!(one.deliveries, two.deliveries);
    assert_eq!(one.deliveries.iter().map(|one| one.channel).collect::<Vec<_>>(), [Channel::Email, Channel::Slack]);
    assert_eq!(one.user, Some(Uuid::from_u128(9).into()));
}

#[test]
fn an_email_goes_to_the_target_else_to_the_recipients_address_else_where_account_says() {
    let target = |recipient: Value, target: Value| {
        let request = json!({
            "type": "T", "recipient": recipient, "channels": [{ "channel": "EMAIL", "target": target }],
            "subject": "s", "body": "b",
        });
        check(request).unwrap().deliveries.remove(0).target
    };
    let user = json!({ "userId": Uuid::from_u128(9) });
    let both = json!({ "userId": Uuid::from_u128(9), "email": "a@example.com" });
    assert_eq!(target(user, Value::Null), None);
    assert_eq!(target(both.clone(), Value::Null).as_deref(), Some("a@example.com"));
    assert_eq!(target(both, json!("b@example.com")).as_deref(), Some("b@example.com"));
    assert_eq!(target(Value::Null, json!("b@example.com")).as_deref(), Some("b@example.com"));
}

#[test]
fn what_breaks_a_rule_is_refused_with_its_place() {
    let invalid = |field: &str| (field.to_owned(), "VALIDATION_ERROR".to_owned());
    for (request, field) in [
        (with("type", json!("system incident")), "type"),
        (with("type", json!("9T")), "type"),
        (with("body", json!("a\0b")), "body"),
        (with("body", json!("a\rb")), "body"),
        (with("body", json!("  ")), "body"),
        (with("body", json!("x".repeat(20_001))), "body"),
        (with("data", json!({ "a": [{ "b": "\0" }] })), "data"),
        (with("data", json!({ "a\0": 1 })), "data"),
        (with("notBefore", json!("2026-12-28T00:00:01Z")), "notBefore"),
        (with("notBefore", json!("-0001-01-01T00:00:00Z")), "notBefore"),
        (with("channels", json!([])), "channels"),
        (with("channels", json!([{ "channel": "SLACK" }, { "channel": "SLACK" }])), "channels[1]"),
        (with("channels", json!([{ "channel": "SLACK", "target": "https://x" }])), "channels[0].target"),
        (with("channels", json!([{ "channel": "EMAIL" }])), "recipient"),
        (with("channels", json!([{ "channel": "EMAIL", "target": "a@b, c@d" }])), "channels[0].target"),
    ] {
        assert_eq!(refused(request), invalid(field), "{field}");
    }
    let unknown = refused(with("channels", json!([{ "channel": "FAX" }])));
    assert_eq!(unknown.1, "UNKNOWN_CHANNEL");
}

#[test]
fn lines_of_a_body_end_in_one_way() {
    assert_eq!(check(with("body", json!("a\r\nb\n\tc"))).unwrap().deliveries[0].message.body, "a\nb\n\tc");
}

#[test]
fn a_template_takes_the_place_of_subject_and_body() {
    let asks = |more: Value| {
        let request = json!({ "type": "T", "channels": [{ "channel": "SLACK" }], "data": { "a": 1 } });
        crate::template::builtin::with(request, more)
    };
    let template = checked(asks(json!({ "template": "ORDER_DELAYED", "language": "en" }))).unwrap().template;
    assert_eq!(template, Some(AskedTemplate { name: "ORDER_DELAYED".to_owned(), language: Some(Language::En) }));
    for (more, field) in [
        (json!({}), "subject"),
        (json!({ "subject": "s" }), "body"),
        (json!({ "template": "T", "subject": "s" }), "subject"),
        (json!({ "template": "T", "body": "b" }), "body"),
        (json!({ "template": "order delayed" }), "template"),
        (json!({ "subject": "s", "body": "b", "language": "ko" }), "language"),
    ] {
        assert_eq!(refused(asks(more)), (field.to_owned(), "VALIDATION_ERROR".to_owned()));
    }
}
