//! What the fields of the API look like, for the examples of its description.

use serde_json::{Map, Value};

/// By the field's name, by `Schema.name` where that differs from others of the name, and by `Schema` where a request's fields
/// depend on each other.
pub fn examples() -> Map<String, Value> {
    serde_json::from_str(include_str!("examples.json")).expect("the file is a JSON object")
}
