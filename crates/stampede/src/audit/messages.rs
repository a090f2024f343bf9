//! The messages of all services as if they were in one table: who has recorded, applied and parked what.

use common::manifest::{ServiceSpec, identifier};

use crate::services::SERVICES;

/// What stands for the name in a statement. Schemas are still written `{order}` in it.
///
/// | name | its rows |
/// |---|---|
/// | `{outbox_events}` | every outbox row, with its `service` |
/// | `{parked}` | every parked event, with its `service` |
/// | `{inbox}` | every mark that a service has set on an event, with its `service` |
/// | `{subscribed}` | every outbox row once for each `consumer` that does something with it, and whether that one has applied it: `is_applied` |
/// | `{produced}` | service and topic of everything that a service says it produces; the columns have no names |
pub fn tables() -> [(&'static str, String); 5] {
    [
        ("{outbox_events}", of_all("outbox_events")),
        ("{parked}", of_all("parked")),
        ("{inbox}", marks()),
        ("{subscribed}", subscribed()),
        ("{produced}", produced()),
    ]
}

/// How a statement names the schema of `service`.
pub fn placeholder(service: &str) -> String {
    format!("{{{}}}", identifier(service))
}

/// One of the tables that every schema has.
fn of_all(table: &str) -> String {
    let rows = |service: &ServiceSpec| {
        format!("select '{}' as service, * from {}.{table}", service.name, placeholder(service.name))
    };
    format!("({})", SERVICES.iter().map(rows).collect::<Vec<_>>().join(" union all "))
}

/// By the name of the consumer, as the key of each inbox begins.
fn marks() -> String {
    let rows = |service: &ServiceSpec| {
        let (name, schema) = (service.name, placeholder(service.name));
        format!("select '{name}' as service, * from {schema}.inbox where consumer = '{name}'")
    };
    format!("({})", SERVICES.iter().map(rows).collect::<Vec<_>>().join(" union all "))
}

fn subscribed() -> String {
    let mut rows = Vec::new();
    for consumer in SERVICES {
        for producer in SERVICES {
            let topics = producer.produces.iter().filter(|topic| consumer.consumes.contains(topic));
            let topics: Vec<String> = topics.map(|topic| format!("'{topic}'")).collect();
            if !topics.is_empty() {
                rows.push(format!(
                    "select '{name}' as consumer, event.*, inbox.event_id is not null as is_applied
                     from {outbox}.outbox_events as event
                     left join {inbox}.inbox on inbox.consumer = '{name}' and inbox.event_id = event.event_id
                     where event.topic in ({topics}) and not ({ignored})",
                    name = consumer.name,
                    ignored = consumer.ignores.unwrap_or("false"),
                    outbox = placeholder(producer.name),
                    inbox = placeholder(consumer.name),
                    topics = topics.join(", "),
                ));
            }
        }
    }
    format!("({})", rows.join(" union all "))
}

fn produced() -> String {
    let of =
        |service: &'static ServiceSpec| service.produces.iter().map(|topic| format!("('{}', '{topic}')", service.name));
    format!("(values {})", SERVICES.iter().flat_map(of).collect::<Vec<_>>().join(", "))
}
