//! The texts that the hub has by itself, version 0 of each: what it says of events, unless administrators have written
//! another version.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};

use crate::channel::Channel;
use crate::template::{Compiled, Language, TemplateKey};

/// A text as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    pub subject: &'static str,
    pub body: &'static str,
}

/// The subject is the first line, the body begins after an empty one.
macro_rules! texts {
    ($($name:literal $channel:ident $file:literal)*) => {
        [$(
            ($name, Channel::$channel, Language::Ko, include_str!(concat!("builtin/", $file, ".ko.j2"))),
            ($name, Channel::$channel, Language::En, include_str!(concat!("builtin/", $file, ".en.j2"))),
        )*]
    };
}

const TEXTS: [(&str, Channel, Language, &str); 16] = texts! {
    "ORDER_CREATED" Email "order_created.email"
    "ORDER_PLACED" Email "order_placed.email"
    "PAYMENT_FAILED" Email "payment_failed.email"
    "PAYMENT_FAILED" Slack "payment_failed.slack"
    "PAYMENT_UNKNOWN" Slack "payment_unknown.slack"
    "PAYMENT_REFUNDED" Email "payment_refunded.email"
    "RESTOCK" Email "restock.email"
    "WEBHOOK_ENDPOINT_DISABLED" Slack "webhook_endpoint_disabled.slack"
};

static BUILT_IN: LazyLock<BTreeMap<TemplateKey, (Source, Arc<Compiled>)>> = LazyLock::new(|| {
    let text = |(name, channel, language, text): (&str, Channel, Language, &'static str)| {
        let (subject, body) = text.split_once("\n\n").unwrap_or((text, ""));
        let compiled = Compiled::new(channel, subject, body).expect("a test compiles all of them");
        (TemplateKey::new(name, channel, language), (Source { subject, body }, Arc::new(compiled)))
    };
    TEXTS.into_iter().map(text).collect()
});

/// All of them, by key.
pub fn keys() -> impl Iterator<Item = &'static TemplateKey> {
    BUILT_IN.keys()
}

pub fn source(key: &TemplateKey) -> Option<Source> {
    BUILT_IN.get(key).map(|(source, _)| *source)
}

pub fn compiled(key: &TemplateKey) -> Option<Arc<Compiled>> {
    BUILT_IN.get(key).map(|(_, compiled)| compiled.clone())
}

/// What the variables of a built-in text may be: a version that cannot be rendered with each of these is refused. Empty
/// for a text that is not built in.
pub fn samples(name: &str, channel: Channel) -> Vec<Value> {
    if !BUILT_IN.contains_key(&TemplateKey::new(name, channel, Language::Ko)) {
        return Vec::new();
    }
    let money = |amount: i64| json!({ "amount": amount, "currency": "KRW" });
    let at = "2026-11-21T09:10:00.000Z";
    let (order, payment) = ("01936f2e-52f0-7a41-9d0c-5b8f0c2d4e66", "01936f2e-52f0-7a41-9d0c-5b8f0c2d4e67");
    let (user, product) = ("01936f2e-52f0-7a41-9d0c-5b8f0c2d4e68", "01936f2e-52f0-7a41-9d0c-5b8f0c2d4e69");
    let items = json!([{ "productId": product, "name": "한정판 운동화", "quantity": 2, "unitPrice": money(129_000) }]);
    let failed = json!({ "orderId": order, "paymentId": payment, "amount": money(129_000), "code": "PAYMENT_DECLINED", "failedAt": at });
    let of_operators =
        json!({ "attemptId": user, "userId": user, "provider": "naverpay", "pgCode": "NotEnoughBalance" });
    let (variables, time) = match (name, channel) {
        ("ORDER_CREATED", _) => {
            (json!({ "orderId": order, "total": money(258_000), "items": items, "holdExpiresAt": at }), "holdExpiresAt")
        }
        ("ORDER_PLACED", _) => {
            let variables = json!({ "orderId": order, "paymentId": payment, "total": money(258_000), "items": items, "placedAt": at });
            (variables, "placedAt")
        }
        ("PAYMENT_FAILED", Channel::Slack) => (with(failed, of_operators), "failedAt"),
        ("PAYMENT_FAILED", _) => (failed, "failedAt"),
        ("PAYMENT_UNKNOWN", _) => {
            let variables = json!({
                "orderId": order, "paymentId": payment, "attemptId": user, "userId": user, "amount": money(129_000),
                "provider": "naverpay", "since": at,
            });
            (variables, "since")
        }
        ("PAYMENT_REFUNDED", _) => {
            let variables = json!({
                "orderId": order, "paymentId": payment, "refundId": user, "amount": money(29_000),
                "refundedTotal": money(59_000), "paid": money(129_000), "refundedAt": at,
            });
            (variables, "refundedAt")
        }
        ("WEBHOOK_ENDPOINT_DISABLED", _) => (json!({ "endpoint": "shop" }), ""),
        _ => (json!({ "productId": product, "name": "한정판 스니커즈", "restockRound": 3 }), ""),
    };
    // An event may come without its time.
    let mut samples = vec![variables.clone()];
    if !time.is_empty() {
        samples.push(with(variables, json!({ time: null })));
    }
    samples
}

/// The members of `first`, and those of `more` in their place or behind them.
pub fn with(mut first: Value, more: Value) -> Value {
    if let (Value::Object(members), Value::Object(more)) = (&mut first, more) {
        members.extend(more);
    }
    first
}

#[cfg(test)]
pub mod tests;
