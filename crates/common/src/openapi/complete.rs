//! What is true of every operation, written into the description once: how errors are sent, which refusals the kit has, the
//! headers of answers, and the bounds of parameters that all lists share.

use serde_json::{Map, Value, json};

use crate::{idempotency, page};

/// Completes the operations and schemas of a description in JSON.
pub fn complete(document: &mut Value) {
    for item in members(document, "paths") {
        for (method, operation) in item.1.as_object_mut().into_iter().flatten() {
            if let Some(operation) = operation.as_object_mut() {
                complete_operation(method, operation);
            }
        }
    }
    if let Some(components) = document.get_mut("components") {
        for (_, schema) in members(components, "schemas") {
            complete_times(schema);
        }
    }
}

fn members<'v>(value: &'v mut Value, name: &str) -> impl Iterator<Item = (&'v String, &'v mut Value)> {
    value.get_mut(name).and_then(Value::as_object_mut).into_iter().flatten()
}

fn complete_operation(method: &str, operation: &mut Map<String, Value>) {
    for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
        complete_parameter(parameter);
    }
    let parameters = operation.get("parameters").and_then(Value::as_array).cloned().unwrap_or_default();
    if let Some(body) = operation.get_mut("requestBody") {
        complete_body(body);
    }
    let has_body = operation.contains_key("requestBody");
    let has_key = parameters.iter().any(|parameter| parameter["name"] == idempotency::HEADER);
    let is_secured = operation.get("security").is_some_and(|security| !security.is_null());
    let is_restricted = demands_a_role(operation);
    let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else { return };

    let mut refusals = vec![("500", "INTERNAL_ERROR"), ("503", "SERVICE_UNAVAILABLE")];
    if has_body || !parameters.is_empty() {
        refusals.push(("400", "VALIDATION_ERROR"));
    }
    if has_body {
        refusals.extend([("413", "PAYLOAD_TOO_LARGE"), ("415", "UNSUPPORTED_MEDIA_TYPE")]);
    }
    if is_secured {
        refusals.push(("401", "UNAUTHORIZED"));
    }
    if is_restricted {
        refusals.push(("403", "FORBIDDEN"));
    }
    for (status, code) in refusals {
        let refusal = json!({
            "description": code,
            "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
        });
        let told = responses.entry(status).or_insert(refusal);
        // A route that has its own codes for a status may answer the kit's as well.
        if let Some(description) = told.get("description").and_then(Value::as_str)
            && !description.contains(code)
        {
            let both = if description.is_empty() { code.to_owned() } else { format!("{description}, {code}") };
            told["description"] = both.into();
        }
    }
    let has_tag = responses.contains_key("304");
    for (status, response) in responses {
        complete_response(status, response, Answer { is_get: method == "get", has_key, has_tag });
    }
}

/// Whether a token or a key may be right and still open nothing: the operation names roles or scopes.
fn demands_a_role(operation: &Map<String, Value>) -> bool {
    let alternatives = operation.get("security").and_then(Value::as_array).into_iter().flatten();
    let demanded = alternatives.filter_map(Value::as_object).flat_map(Map::values).filter_map(Value::as_array);
    demanded.flatten().next().is_some()
}

/// A body that may be absent comes as a choice between its schema and `null`, which is JSON and would be a body.
fn complete_body(body: &mut Value) {
    for (_, content) in members(body, "content") {
        let Some(choices) = content["schema"]["oneOf"].as_array() else { continue };
        if let [schema, null] = choices.as_slice()
            && null["type"] == "null"
        {
            content["schema"] = schema.clone();
        }
    }
}

/// What the headers of an answer depend on.
#[derive(Clone, Copy)]
struct Answer {
    is_get: bool,
    has_key: bool,
    has_tag: bool,
}

fn complete_response(status: &str, response: &mut Value, answer: Answer) {
    let is_error = status.starts_with(['4', '5']);
    if response["description"].as_str().is_none_or(str::is_empty) {
        let code = status.parse().ok().and_then(|status| actix_web::http::StatusCode::from_u16(status).ok());
        response["description"] = code.and_then(|code| code.canonical_reason()).unwrap_or("An answer").into();
    }
    if is_error && let Some(content) = response.get_mut("content").and_then(Value::as_object_mut) {
        let body = content.remove("application/json");
        content.extend(body.map(|body| ("application/problem+json".to_owned(), body)));
    }
    let is_success = status.starts_with('2');
    let mut headers = vec![("X-Request-Id", "string", "The request in our logs")];
    let mut add = |applies: bool, name, kind, meaning| headers.extend(applies.then_some((name, kind, meaning)));
    add(["429", "503"].contains(&status), "Retry-After", "integer", "Seconds to wait before the next try");
    add(status == "401", "WWW-Authenticate", "string", "Bearer");
    add(status == "429", "RateLimit", "string", "What is left of each limit that applied, and when it is back");
    add(status == "429", "RateLimit-Policy", "string", "The limits that applied");
    add(status == "201" && !answer.is_get, "Location", "string", "Where to read what was made");
    add(is_success && answer.has_key, idempotency::REPLAYED_HEADER, "string", "true: this was answered before");
    add(answer.has_tag && ["200", "304"].contains(&status), "ETag", "string", "For If-None-Match");
    for (name, kind, meaning) in headers {
        let declared = &mut response["headers"];
        if !declared.is_object() {
            *declared = json!({});
        }
        if declared.get(name).is_none() {
            declared[name] = json!({ "description": meaning, "schema": { "type": kind } });
        }
    }
}

/// Bounds that hold wherever a parameter has this name, unless the route says more.
fn complete_parameter(parameter: &mut Value) {
    let bounds = match (parameter["in"].as_str(), parameter["name"].as_str()) {
        (Some("header"), Some(idempotency::HEADER)) => {
            json!({ "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$", "description": "1 to 255 visible ASCII characters" })
        }
        (Some("header"), Some("If-Match")) => json!({ "minLength": 1, "description": "An ETag, or *" }),
        (Some("header"), Some("If-None-Match")) => json!({ "description": "An ETag, or *" }),
        (Some("path"), Some(name)) if name.ends_with("Id") => json!({ "format": "uuid" }),
        (Some("query"), Some("limit")) => json!({ "minimum": 1, "maximum": 100 }),
        (Some("query"), Some("size")) => json!({ "minimum": 1, "maximum": 100 }),
        (Some("query"), Some("page")) => json!({ "minimum": 0, "maximum": 10_000 }),
        (Some("query"), Some("q")) => json!({ "minLength": 1, "maxLength": 100 }),
        (Some("query"), Some("cursor")) => json!({ "minLength": 1, "maxLength": page::CURSOR_BYTES_MAX }),
        _ => return,
    };
    for (name, bound) in bounds.as_object().into_iter().flatten() {
        let place = if name == "description" { &mut *parameter } else { &mut parameter["schema"] };
        if place.get("$ref").is_none() && place.get(name).is_none_or(|declared| *declared == 0 && name == "minimum") {
            place[name] = bound.clone();
        }
    }
}

/// Times are texts in Rust, because they are written in milliseconds; here they have their format.
fn complete_times(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            for (name, property) in object.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
                let is_time = name.ends_with("At") || ["timestamp", "serverTime"].contains(&name.as_str());
                let kind = &property["type"];
                let is_text = kind == "string" || kind.as_array().is_some_and(|kinds| kinds.contains(&json!("string")));
                if is_time && is_text {
                    property["format"] = json!("date-time");
                }
            }
            object.values_mut().for_each(complete_times);
        }
        Value::Array(list) => list.iter_mut().for_each(complete_times),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_has_the_refusals_and_headers_of_the_kit() {
        let mut document = json!({
            "paths": { "/api/v1/things": { "post": {
                "security": [{ "bearer": ["ADMIN"] }],
                "requestBody": { "content": { "application/json": { "schema": {
                    "oneOf": [{ "$ref": "#/components/schemas/Thing" }, { "type": "null" }],
                } } } },
                "parameters": [{ "in": "header", "name": "Idempotency-Key", "schema": { "type": "string" } }],
                "responses": {
                    "201": {},
                    "400": { "description": "IDEMPOTENCY_KEY_REQUIRED", "content": { "application/json": {} } },
                },
            } } },
            "components": { "schemas": { "Thing": { "properties": { "madeAt": { "type": ["string", "null"] } } } } },
        });
        complete(&mut document);
        let operation = &document["paths"]["/api/v1/things"]["post"];
        let statuses: Vec<&String> = operation["responses"].as_object().unwrap().keys().collect();
        assert_eq!(statuses, ["201", "400", "401", "403", "413", "415", "500", "503"]);
        let body = &operation["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(body["$ref"], "#/components/schemas/Thing", "it may be absent, but not null");
        assert_eq!(operation["responses"]["201"]["description"], "Created");
        assert!(operation["responses"]["201"]["headers"]["Location"].is_object());
        assert_eq!(operation["responses"]["400"]["description"], "IDEMPOTENCY_KEY_REQUIRED, VALIDATION_ERROR");
        assert!(operation["responses"]["400"]["content"]["application/problem+json"].is_object());
        assert_eq!(operation["parameters"][0]["schema"]["maxLength"], 255);
        assert_eq!(document["components"]["schemas"]["Thing"]["properties"]["madeAt"]["format"], "date-time");
    }

    #[test]
    fn only_where_a_role_or_a_scope_is_demanded_somebody_known_may_be_refused() {
        let demands = |security: Value| demands_a_role(json!({ "security": security }).as_object().unwrap());
        assert!(demands(json!([{ "bearer": ["ADMIN"] }])));
        assert!(demands(json!([{ "bearer": [] }, { "apiKey": ["notifications:read"] }])));
        for open in [json!([{ "bearer": [] }]), json!([{}, { "bearer": [] }]), Value::Null] {
            assert!(!demands(open.clone()), "{open}");
        }
    }
}
