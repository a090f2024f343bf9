//! Who may ask for what: the description says it of every operation, the handlers demand it, and every route is asked by
//! those who may not.

use std::collections::BTreeSet;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use testkit::{Client, fresh_key, text};
use uuid::Uuid;

use super::Trial;
use super::tokens::Key;
use crate::tidy;

/// What anybody may ask for.
const PUBLIC: [(&str, &str); 20] = [
    ("get", "/.well-known/jwks.json"),
    ("get", "/api/v1/concerts"),
    ("get", "/api/v1/concerts/{concertId}"),
    ("get", "/api/v1/concerts/{concertId}/seats"),
    ("get", "/api/v1/coupons"),
    ("get", "/api/v1/coupons/{couponId}"),
    ("get", "/api/v1/events"),
    ("get", "/api/v1/events/{eventId}"),
    ("get", "/api/v1/events/{eventId}/stream"),
    ("get", "/api/v1/products"),
    ("get", "/api/v1/products/{productId}"),
    ("get", "/api/v1/queues/ping"),
    ("get", "/api/v1/queues/{eventId}/proof"),
    ("get", "/api/v1/queues/{eventId}/status"),
    ("get", "/api/v1/stream"),
    ("post", "/api/v1/auth/login"),
    ("post", "/api/v1/auth/logout"),
    ("post", "/api/v1/auth/refresh"),
    ("post", "/api/v1/auth/register"),
    // Whoever calls shows a signature.
    ("post", "/api/v1/webhooks/pg/{provider}"),
];

/// What a handler's extractor demands, as `#[utoipa::path]` has to say it. None is the beginning of another.
const DEMANDS: [(&str, &str); 5] = [
    ("Admin", r#"security(("bearer" = ["ADMIN"]))"#),
    ("Caller", r#"security(("bearer" = []))"#),
    ("MaybeCaller", r#"security((), ("bearer" = []))"#),
    ("Reader", r#"security(("bearer" = []), ("apiKey" = ["notifications:read"]))"#),
    ("Sending", r#"security(("bearer" = ["ADMIN"]), ("apiKey" = ["notifications:write"]))"#),
];

/// Whose role the operation demands of an access token.
pub fn is_for_administrators(operation: &Value) -> bool {
    demanded(operation, "bearer") == Some(vec!["ADMIN"])
}

/// The roles or scopes that one of this scheme must have. None: the operation does not accept it.
fn demanded<'o>(operation: &'o Value, scheme: &str) -> Option<Vec<&'o str>> {
    let alternatives = operation["security"].as_array().into_iter().flatten();
    let names = alternatives.filter_map(|alternative| alternative[scheme].as_array()).next()?;
    Some(names.iter().filter_map(Value::as_str).collect())
}

fn is_public(operation: &Value) -> bool {
    operation["security"].as_array().is_none_or(|alternatives| alternatives.contains(&json!({})))
}

/// What is wrong with a handler: the text from its `#[utoipa::path(` on. None: it says what it extracts.
fn disagreement(handler: &str) -> Option<String> {
    let (attributes, function) = handler.split_once("async fn ").expect("a handler is a function");
    let (signature, _) = function.split_once('{').expect("a function has a body");
    let words: BTreeSet<&str> = signature.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let extractors: Vec<_> = DEMANDS.iter().filter(|(extractor, _)| words.contains(extractor)).collect();
    let said: Vec<&str> = attributes.match_indices("security(").map(|(at, _)| &attributes[at..]).collect();
    let agrees = match (extractors.as_slice(), said.as_slice()) {
        ([], []) => true,
        ([(_, demand)], [said]) => said.starts_with(demand),
        _ => false,
    };
    let name = signature.split('(').next().unwrap_or_default();
    (!agrees).then(|| format!("{name} extracts {extractors:?} and says {said:?}"))
}

#[test]
fn the_description_demands_of_each_operation_what_its_handler_demands() {
    let (mut broken, mut handlers) = (Vec::new(), 0);
    for source in &tidy::sources() {
        let after = source.code().split("#[utoipa::path(").skip(1);
        for handler in after.filter(|text| text.contains("async fn ")) {
            broken.extend(disagreement(handler).map(|flaw| format!("{}: {flaw}", source.path)));
            handlers += 1;
        }
    }
    tidy::holds("`security` of an operation says what its handler extracts.", broken);
    assert!(handlers >= 105, "only {handlers} handlers were found");
    // A test that cannot fail proves nothing.
    for (security, extractor) in [
        ("", "Admin"),
        (r#"security(("bearer" = []))"#, "Admin"),
        (r#"security(("bearer" = ["ADMIN"]))"#, "Caller"),
        (r#"security(("bearer" = []))"#, "Reader"),
        (r#"security(("bearer" = []))"#, "Path<OrderId>"),
    ] {
        let handler = format!("{security})] pub async fn read(app: Data<App>, _: {extractor}) -> Result<()> {{}}");
        assert!(disagreement(&handler).is_some(), "{handler}");
    }
}

/// One who is refused, and with what.
type Refusal<'c> = (&'static str, &'c Client, u16, &'static str);

/// Keys of programs, each with one scope.
struct Keys {
    reading: Client,
    writing: Client,
}

impl Keys {
    async fn made_by(admin: &Client) -> Keys {
        let make = async |client: &str, scope: &str| {
            let body = json!({ "client": client, "scopes": [scope] });
            let request = admin.request(Method::POST, "/admin/api-keys").header("Idempotency-Key", fresh_key());
            let made = admin.send(request.json(&body)).await.expect(201).json();
            admin.with_token(&text(&made["key"]))
        };
        Keys {
            reading: make("reads", "notifications:read").await,
            writing: make("writes", "notifications:write").await,
        }
    }

    /// Which of the keys the operation refuses.
    fn refused(&self, operation: &Value) -> Vec<Refusal<'_>> {
        let keys = [
            ("a key that reads", "notifications:read", &self.reading),
            ("a key that writes", "notifications:write", &self.writing),
        ];
        let demanded = demanded(operation, "apiKey");
        let refusals = keys.into_iter().map(|(what, scope, key)| match &demanded {
            None => Some((what, key, 401, "UNAUTHORIZED")),
            Some(scopes) if scopes.contains(&scope) => None,
            Some(_) => Some((what, key, 403, "FORBIDDEN")),
        });
        refusals.flatten().collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_refuses_nobody_an_expired_token_a_key_and_who_lacks_the_role() {
    let mut trial = Trial::start().await;
    let keys = Keys::made_by(&trial.admin).await;
    trial.before = trial.site.everything().await;
    let (anyone, buyer, stranger) = (trial.site.anyone(), trial.buyer.clone(), trial.stranger.clone());
    let document = anyone.send(anyone.request_root(Method::GET, "/openapi.json")).await.expect(200).json();
    let expired = trial.admin.with_token(&Key::stolen_from(&trial.site).await.expired(&trial.admin.user_id));
    let nil = Uuid::nil().to_string();
    let (mut public, mut closed, mut administration) = (BTreeSet::new(), 0, 0);
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            if is_public(operation) {
                public.insert((method.as_str(), path.as_str()));
                continue;
            }
            closed += 1;
            let mut refused =
                vec![("nobody", &anyone, 401, "UNAUTHORIZED"), ("an expired token", &expired, 401, "UNAUTHORIZED")];
            refused.extend(keys.refused(operation));
            if is_for_administrators(operation) {
                administration += 1;
                refused.push(("a buyer", &buyer, 403, "FORBIDDEN"));
            } else {
                assert_eq!(demanded(operation, "bearer"), Some(vec![]), "{method} {path}: a role that nobody has");
                // A route that asks for a role and does not say so. What the path names is not there, so nothing is done.
                let nothing = with_ids(path, |_| &nil);
                let answer = stranger.send(ask(&stranger, method, &nothing)).await;
                let problem: Value = serde_json::from_str(&answer.body).unwrap_or_default();
                if problem["code"] == "FORBIDDEN" {
                    trial.flaws.push(format!("{method} {path}: an account without a role: {answer}"));
                }
            }
            for (who, client, status, code) in refused {
                let request = ask(client, method, &with_ids(path, |place| trial.id_in(place)));
                trial.refuse_with(&format!("{method} {path}: {who}"), client, request, status, code).await;
            }
        }
    }
    assert_eq!(public, PUBLIC.into(), "what anybody may ask for");
    assert!(closed >= 83 && administration >= 49, "only {closed} routes, {administration} of administrators");
    // Where the hub has a port of its own, programs send to an address that the description of the API does not have.
    for (who, client, status, code) in [
        ("nobody", &anyone, 401, "UNAUTHORIZED"),
        ("an expired token", &expired, 401, "UNAUTHORIZED"),
        ("a buyer", &buyer, 403, "FORBIDDEN"),
        ("a key that reads", &keys.reading, 403, "FORBIDDEN"),
    ] {
        let request = ask(client, "post", "/notifications");
        trial.refuse_with(&format!("post /notifications: {who}"), client, request, status, code).await;
    }
    trial.end().await;
}

impl Trial {
    /// What this part of a path has behind it.
    pub fn id_in(&self, place: &str) -> &String {
        match place {
            "orders" => &self.order,
            "payments" => &self.payment,
            "notifications" => &self.notification,
            "deliveries" => &self.delivery,
            _ => &self.product.id,
        }
    }
}

/// `path` with ids in it: `id_in` is asked with the part before each.
pub fn with_ids<'i>(path: &str, id_in: impl Fn(&str) -> &'i String) -> String {
    let parts = path.split('/').collect::<Vec<_>>();
    let concrete = parts.iter().enumerate().map(|(n, part)| match part.starts_with('{') {
        true => id_in(parts[n - 1]).as_str(),
        false => *part,
    });
    concrete.collect::<Vec<_>>().join("/")
}

/// A request whose body says nothing, except where it is looked at before a key is: there it is right.
fn ask(by: &Client, method: &str, path: &str) -> RequestBuilder {
    let body = match (method, path.rsplit('/').next()) {
        ("post", Some("notifications")) => {
            json!({ "type": "INCIDENT", "channels": [{ "channel": "SLACK" }], "subject": "Down", "body": "All of it." })
        }
        _ => json!({}),
    };
    let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
    by.request_root(method, path).header("Idempotency-Key", fresh_key()).header("If-Match", "*").json(&body)
}
