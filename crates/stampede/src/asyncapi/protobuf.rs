//! Messages of `proto/` as JSON Schemas, by protobuf's JSON mapping and with the comments of the files.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, bail};
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use serde_json::{Map, Value, json};

/// Where descriptors have messages of a file, and fields of a message: numbers of their fields in `descriptor.proto`.
const MESSAGES: i32 = 4;
const FIELDS: i32 = 2;

/// The messages of one package.
pub struct Contract {
    messages: BTreeMap<String, Message>,
}

pub struct Message {
    pub name: String,
    comment: String,
    /// Names in JSON.
    properties: Map<String, Value>,
}

impl Contract {
    pub fn read(package: &str) -> anyhow::Result<Contract> {
        let files = FileDescriptorSet::decode(contract::DESCRIPTORS)?.file;
        let file = files.into_iter().find(|file| file.package() == package);
        let file = file.with_context(|| format!("proto/ has no package {package}"))?;
        let info = file.source_code_info.clone().unwrap_or_default();
        let comments: HashMap<Vec<i32>, String> = info
            .location
            .into_iter()
            .map(|location| (location.path, location.leading_comments.unwrap_or_default()))
            .map(|(path, comment)| (path, comment.split_whitespace().collect::<Vec<_>>().join(" ")))
            .collect();
        let comment = |path: &[i32]| comments.get(path).cloned().unwrap_or_default();
        let mut messages = BTreeMap::new();
        for (index, message) in (0..).zip(&file.message_type) {
            let path = [MESSAGES, index];
            let mut properties = Map::new();
            for (index, field) in (0..).zip(&message.field) {
                let described = comment(&[&path[..], &[FIELDS, index]].concat());
                properties.insert(field.json_name().to_owned(), schema(message, field, &described)?);
            }
            let name = message.name().to_owned();
            messages.insert(name.clone(), Message { name, comment: comment(&path), properties });
        }
        Ok(Contract { messages })
    }

    pub fn message(&self, name: &str) -> anyhow::Result<&Message> {
        self.messages.get(name).with_context(|| format!("the contract has no message {name}"))
    }

    /// The schemas of all messages, by name.
    pub fn schemas(&self) -> Map<String, Value> {
        let schema = |message: &Message| json!({ "type": "object", "description": message.meaning(), "properties": message.properties });
        self.messages.iter().map(|(name, message)| (name.clone(), schema(message))).collect()
    }
}

impl Message {
    /// What it tells, without the topic and the key.
    pub fn meaning(&self) -> String {
        let meaning = self.topic_and_key().and_then(|head| self.comment.strip_prefix(head));
        meaning.map_or(self.comment.as_str(), |rest| rest.trim_start_matches(['.', ' '])).to_owned()
    }

    /// What the key is: what stands behind `key: ` up to the end of the sentence.
    pub fn key(&self) -> anyhow::Result<&str> {
        let key = self.topic_and_key().and_then(|head| head.split_once(", key: "));
        match key {
            Some((_, key)) => Ok(key),
            None => bail!("the comment of {} does not begin with `Topic NAME, key: …`", self.name),
        }
    }

    fn topic_and_key(&self) -> Option<&str> {
        self.comment.starts_with("Topic ").then(|| self.comment.split('.').next().unwrap_or_default())
    }
}

fn schema(message: &DescriptorProto, field: &FieldDescriptorProto, description: &str) -> anyhow::Result<Value> {
    let mut one = match field.r#type() {
        Type::String => json!({ "type": "string" }),
        Type::Bool => json!({ "type": "boolean" }),
        Type::Int32 => json!({ "type": "integer", "format": "int32" }),
        // 64 bits are more than a JavaScript number has.
        Type::Int64 => json!({ "type": "string", "format": "int64", "pattern": "^-?[0-9]+$" }),
        Type::Message => match field.type_name() {
            ".google.protobuf.Timestamp" => json!({ "type": "string", "format": "date-time" }),
            ".google.protobuf.Struct" => json!({ "type": "object" }),
            own => json!({ "$ref": format!("#/components/schemas/{}", own.rsplit('.').next().unwrap_or_default()) }),
        },
        other => bail!("{}.{} has the type {other:?}: add it here", message.name(), field.name()),
    };
    if field.label() == Label::Repeated {
        one = json!({ "type": "array", "items": one });
    }
    if !description.is_empty() {
        one["description"] = json!(description);
    }
    Ok(one)
}
