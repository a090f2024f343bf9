//! `stampede asyncapi`: the AsyncAPI description of every topic, from the contracts and the services' manifests.

mod protobuf;

use common::kafka::KafkaSettings;
use common::settings::Settings;
use contract::events::{TOPICS, TOPICS_OF_ANYBODY};
use serde_json::{Map, Value, json};

use crate::services::SERVICES;
use protobuf::{Contract, Message};

/// The package of the events.
const PACKAGE: &str = "stampede.events.v1";

/// The description as JSON, with the topics as the defaults make them.
pub fn description() -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(&document()?)?)
}

/// The same as a value.
pub fn document() -> anyhow::Result<Value> {
    let contract = Contract::read(PACKAGE)?;
    let kafka: KafkaSettings = Settings::defaults()?.section("kafka")?;
    let (mut channels, mut operations, mut messages) = (Map::new(), Map::new(), Map::new());
    for topic in TOPICS {
        let message = contract.message(&message_name(topic))?;
        channels.insert(topic.to_owned(), channel(topic, message, &kafka));
        messages.insert(message.name.clone(), event(topic, message)?);
        operations.extend(said(topic, message).chain(heard(topic, message)));
    }
    Ok(json!({
        "asyncapi": "3.1.0",
        "info": {
            "title": "Stampede events",
            "version": env!("CARGO_PKG_VERSION"),
            "description": INTRODUCTION,
            "license": { "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0" },
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": contract.schemas(),
            "messageTraits": { "cloudEvent": { "headers": headers() } },
        },
    }))
}

const INTRODUCTION: &str = "\
What the services tell each other over Kafka. The payload is protobuf's JSON mapping: 64-bit integers are strings, and a \
field that has its default value is left out. Consumers ignore fields that they do not know. An event is delivered at \
least once; its ce_id is the same each time. Events of one topic and key come in the order of their versions. \
`host.namespace` stands before each address.";

/// `ORDER_CREATED` is told by `OrderCreated`.
fn message_name(topic: &str) -> String {
    let word = |word: &str| word.chars().take(1).chain(word.to_lowercase().chars().skip(1)).collect::<String>();
    topic.split('_').map(word).collect()
}

fn channel(topic: &str, message: &Message, kafka: &KafkaSettings) -> Value {
    let retention_ms = kafka.retention_hours * 3_600_000;
    json!({
        "address": topic,
        "description": message.meaning(),
        "messages": { &message.name: { "$ref": format!("#/components/messages/{}", message.name) } },
        "bindings": {
            "kafka": {
                "partitions": kafka.partitions,
                "replicas": kafka.replication_factor,
                "topicConfiguration": { "cleanup.policy": ["delete"], "retention.ms": retention_ms },
                "bindingVersion": "0.5.0",
            },
        },
    })
}

fn event(topic: &str, message: &Message) -> anyhow::Result<Value> {
    Ok(json!({
        "name": topic,
        "title": message.name,
        "summary": message.meaning(),
        "contentType": "application/json",
        "traits": [{ "$ref": "#/components/messageTraits/cloudEvent" }],
        "payload": { "$ref": format!("#/components/schemas/{}", message.name) },
        "bindings": { "kafka": { "key": { "type": "string", "description": message.key()? }, "bindingVersion": "0.5.0" } },
    }))
}

/// Who says it: a service, or anybody who may write to Kafka.
fn said(topic: &str, message: &Message) -> impl Iterator<Item = (String, Value)> {
    let producers = SERVICES.iter().filter(|service| service.produces.contains(&topic)).map(|service| service.name);
    let anybody = TOPICS_OF_ANYBODY.iter().filter(|open| **open == topic).map(|_| "anybody");
    let operations = producers.chain(anybody).map(|name| {
        let mut operation = operation("send", topic, message);
        operation["summary"] = json!(format!("{name} says it"));
        (format!("{name}.send.{topic}"), operation)
    });
    operations.collect::<Vec<_>>().into_iter()
}

fn heard(topic: &str, message: &Message) -> impl Iterator<Item = (String, Value)> {
    let consumers = SERVICES.iter().filter(|service| service.consumes.contains(&topic));
    let operations = consumers.map(|service| {
        let mut operation = operation("receive", topic, message);
        operation["summary"] = json!(format!("{} applies it once", service.name));
        // Behind the name of the group stands `@` and the cluster's id.
        let group = json!({ "type": "string", "pattern": format!("^{}@", service.name) });
        operation["bindings"] = json!({ "kafka": { "groupId": group, "bindingVersion": "0.5.0" } });
        (format!("{}.receive.{topic}", service.name), operation)
    });
    operations.collect::<Vec<_>>().into_iter()
}

fn operation(action: &str, topic: &str, message: &Message) -> Value {
    json!({
        "action": action,
        "channel": { "$ref": format!("#/channels/{topic}") },
        "messages": [{ "$ref": format!("#/channels/{topic}/messages/{}", message.name) }],
    })
}

/// CloudEvents 1.0 in Kafka's binary mode, as `common::outbox` sends them.
fn headers() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    json!({
        "type": "object",
        "required": ["ce_id", "ce_source", "ce_type", "ce_specversion", "ce_time", "ce_subject", "ce_aggregateversion", "content-type"],
        "properties": {
            "ce_id": { "type": "string", "format": "uuid", "description": "Of the event: UUIDv5 of topic, key and version." },
            "ce_source": text("The schema that said it, such as stampede/order."),
            "ce_type": text("The topic without host.namespace."),
            "ce_specversion": { "type": "string", "const": "1.0" },
            "ce_time": { "type": "string", "format": "date-time", "description": "When the transaction began, by PostgreSQL's clock." },
            "ce_subject": text("The key."),
            "ce_aggregateversion": { "type": "string", "pattern": "^[0-9]+$", "description": "The version." },
            "content-type": { "type": "string", "const": "application/json" },
            "traceparent": text("W3C Trace Context of the request that caused it; absent if there was none."),
            "requestid": text("The id of that request; absent for background work."),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_has_a_message_and_somebody_who_says_it() {
        let document = document().unwrap();
        for topic in TOPICS {
            let name = message_name(topic);
            assert!(document["channels"][topic]["messages"][&name].is_object(), "{topic}");
            assert!(document["components"]["schemas"][&name]["properties"].is_object(), "{name}");
            let operations = document["operations"].as_object().unwrap();
            assert!(operations.keys().any(|name| name.ends_with(&format!(".send.{topic}"))), "nobody says {topic}");
        }
        let paid = &document["components"]["messages"]["OrderPlaced"];
        assert_eq!(paid["summary"], "The order is paid: its hold becomes a sale.");
        assert_eq!(paid["bindings"]["kafka"]["key"]["description"], "order id");
    }
}
