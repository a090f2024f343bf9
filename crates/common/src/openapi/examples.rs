//! An example of each body of the description, made from its schema.
//!
//! A field looks as its schema says (`example`, the first of an `enum`, its format), else as fields of its name do.

use serde_json::{Map, Value, json};
use uuid::Uuid;

/// What fields look like, by `name`, or by `Schema.name` where that differs from others of the name; and whole objects, by
/// `Schema`, whose fields depend on each other.
pub type Names = Map<String, Value>;

/// A text that nobody has said anything about.
pub const UNKNOWN: &str = "…";
/// A moment without a name of its own.
const MOMENT: &str = "2030-12-24T11:00:00.000Z";

/// Gives each request and each success of `document` that has a body an example, unless it has one.
pub fn add(document: &mut Value, names: &Names) {
    let schemas = document["components"]["schemas"].as_object().cloned().unwrap_or_default();
    let paths = document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut);
    for operation in paths.filter_map(Value::as_object_mut).flat_map(Map::values_mut) {
        if let Some(body) = operation.get_mut("requestBody") {
            add_to(body, &Examples { schemas: &schemas, names, is_request: true });
        }
        let responses = operation.get_mut("responses").and_then(Value::as_object_mut);
        let successes = responses.into_iter().flatten().filter(|(status, _)| status.starts_with('2'));
        for (_, response) in successes {
            add_to(response, &Examples { schemas: &schemas, names, is_request: false });
        }
    }
}

fn add_to(body: &mut Value, examples: &Examples<'_>) {
    let contents = body.get_mut("content").and_then(Value::as_object_mut);
    for content in contents.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut) {
        if !content.contains_key("example") && !content.contains_key("examples") {
            let schema = content.get("schema").cloned().unwrap_or_default();
            content.insert("example".to_owned(), examples.of(&schema, Field::default()));
        }
    }
}

struct Examples<'a> {
    schemas: &'a Map<String, Value>,
    names: &'a Names,
    /// A request has only what it needs, so that nothing in it excludes another.
    is_request: bool,
}

/// Where a value stands: the schema of the object around it, and its name there.
#[derive(Clone, Copy, Default)]
struct Field<'a> {
    owner: &'a str,
    name: &'a str,
}

impl Examples<'_> {
    fn of(&self, schema: &Value, field: Field<'_>) -> Value {
        if let Some(example) = schema.get("example").or_else(|| schema.get("default")).filter(|told| !told.is_null()) {
            return example.clone();
        }
        if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
            if let Some(whole) = self.names.get(name).filter(|whole| whole.is_object()) {
                return whole.clone();
            }
            let referred = &self.schemas[name];
            let owner = if referred.get("properties").is_some() || field.owner.is_empty() { name } else { field.owner };
            return self.of(referred, Field { owner, ..field });
        }
        if let Some(first) = schema.get("const").or_else(|| schema["enum"].get(0)) {
            return first.clone();
        }
        for choice in ["oneOf", "anyOf"] {
            let options = schema[choice].as_array().into_iter().flatten();
            if let Some(option) = options.into_iter().find(|option| option["type"] != "null") {
                return self.of(option, field);
            }
        }
        if let Some(parts) = schema["allOf"].as_array() {
            let parts = parts.iter().filter_map(|part| self.of(part, field).as_object().cloned());
            return Value::Object(parts.flatten().collect());
        }
        if let Some(told) = self.named(field).filter(|told| fits(told, schema)) {
            return told;
        }
        let kinds = schema["type"].as_array().map_or_else(|| vec![&schema["type"]], |kinds| kinds.iter().collect());
        match kinds.into_iter().filter_map(Value::as_str).find(|kind| *kind != "null") {
            Some("object") => self.object(schema, field),
            Some("array") => {
                let name = field.name.strip_suffix('s').unwrap_or(field.name);
                json!([self.of(&schema["items"], Field { name, ..field })])
            }
            Some("string") => text(schema, field.name).into(),
            Some("integer" | "number") => schema["minimum"].as_i64().unwrap_or(1).max(1).into(),
            Some("boolean") => false.into(),
            _ => json!({}),
        }
    }

    fn object(&self, schema: &Value, field: Field<'_>) -> Value {
        let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_told =
            |name: &str| !self.is_request || required.is_empty() || required.iter().any(|required| required == name);
        let properties = schema["properties"].as_object().into_iter().flatten().filter(|(name, _)| is_told(name));
        let made = properties.map(|(name, schema)| (name.clone(), self.of(schema, Field { name, ..field })));
        Value::Object(made.collect())
    }

    fn named(&self, Field { owner, name }: Field<'_>) -> Option<Value> {
        self.names.get(&format!("{owner}.{name}")).or_else(|| self.names.get(name)).cloned()
    }
}

/// Whether the field of a name is also of this kind: an `eventId` may be a text or a UUID.
fn fits(value: &Value, schema: &Value) -> bool {
    let is_kind = |kind: &Value| match kind.as_str() {
        Some("string") => value.is_string(),
        Some("integer" | "number") => value.is_i64(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => false,
    };
    let is_of_kind =
        schema["type"].as_array().map_or_else(|| is_kind(&schema["type"]), |kinds| kinds.iter().any(is_kind));
    is_of_kind
        && match (schema["format"].as_str(), value.as_str()) {
            (Some("uuid"), Some(text)) => text.parse::<Uuid>().is_ok(),
            (Some("date-time"), Some(text)) => chrono::DateTime::parse_from_rfc3339(text).is_ok(),
            _ => true,
        }
}

fn text(schema: &Value, name: &str) -> String {
    match schema["format"].as_str() {
        Some("date-time") => MOMENT.to_owned(),
        // Each name has its own, the same wherever it stands.
        Some("uuid") => Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string(),
        None if name.ends_with("Id") => Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string(),
        _ => UNKNOWN.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_what_it_needs_and_an_answer_has_everything() {
        let thing = json!({
            "type": "object",
            "required": ["thingId", "kind"],
            "properties": {
                "thingId": { "type": "string", "format": "uuid" },
                "kind": { "oneOf": [{ "type": "null" }, { "$ref": "#/components/schemas/Kind" }] },
                "label": { "type": ["string", "null"] },
                "endsAt": { "type": "string", "format": "date-time" },
                "size": { "$ref": "#/components/schemas/Size" },
                "parts": { "type": "array", "items": { "$ref": "#/components/schemas/Part" } },
            },
        });
        let part = json!({ "type": "object", "properties": {
            "label": { "type": "string" }, "count": { "type": "integer", "minimum": 3 }, "note": { "type": "string" },
        } });
        let body = json!({ "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Thing" } } } });
        let mut document = json!({
            "paths": { "/things": { "post": { "requestBody": body, "responses": { "201": body, "400": body } } } },
            "components": { "schemas": { "Thing": thing, "Part": part, "Kind": { "type": "string", "enum": ["A", "B"] } } },
        });
        let names = json!({ "label": "blue", "Part.label": "red", "endsAt": 7, "Size": { "width": 2 } });
        add(&mut document, names.as_object().unwrap());
        let post = &document["paths"]["/things"]["post"];
        let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, b"thingId").to_string();
        let of = |body: &Value| body["content"]["application/json"]["example"].clone();
        assert_eq!(of(&post["requestBody"]), json!({ "thingId": id, "kind": "A" }));
        let parts = json!([{ "label": "red", "count": 3, "note": UNKNOWN }]);
        let mut answer = json!({ "thingId": id, "kind": "A", "label": "blue", "endsAt": MOMENT, "parts": parts });
        answer["size"] = json!({ "width": 2 });
        assert_eq!(of(&post["responses"]["201"]), answer);
        assert_eq!(of(&post["responses"]["400"]), Value::Null, "errors are all alike");
    }
}
