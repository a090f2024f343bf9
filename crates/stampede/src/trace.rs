//! `stampede trace order`: what became of one order, from the tables of all services, in the order of time.

use std::path::PathBuf;
use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use common::id::derive_uuid;
use common::outbox::Event;
use common::settings::Settings;
use contract::events::{
    OrderCancelled, OrderCreated, OrderExpired, OrderPlaced, OrderRefundRequested, OrderRefunded, PaymentApproved,
    PaymentFailed, PaymentRefunded, PaymentUnknown,
};
use diesel::{QueryableByName, sql_types};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::audit::Ledger;
use crate::reach::{DATA_DIR_HELP, DATA_DIR_ORDER, Origin, report};
use crate::{dev, say, site};

#[derive(Debug, Args)]
pub struct TraceArgs {
    #[command(subcommand)]
    command: TraceCommand,
}

#[derive(Debug, Subcommand)]
enum TraceCommand {
    /// Everything that the tables say about one order, live or archived.
    Order {
        /// The order's id, a UUID.
        #[arg(value_parser = order_id)]
        id: Uuid,
        /// Print one JSON object instead of text.
        #[arg(long)]
        json: bool,
        #[arg(long, value_name = "DIR", help = DATA_DIR_HELP, long_help = DATA_DIR_ORDER)]
        data_dir: Option<PathBuf>,
    },
}

fn order_id(text: &str) -> Result<Uuid, String> {
    text.parse().map_err(|_| {
        "the id of an order is wanted, which is a UUID: the orderId that POST /orders has answered, such as \
         0192f0c1-0000-7000-8000-000000000000"
            .to_owned()
    })
}

/// An order and what happened to it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Story {
    #[serde(flatten)]
    pub order: Order,
    pub steps: Vec<Step>,
}

#[derive(Debug, QueryableByName, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    #[diesel(sql_type = sql_types::Uuid)]
    #[serde(rename = "orderId")]
    pub id: Uuid,
    #[diesel(sql_type = sql_types::Uuid)]
    pub user_id: Uuid,
    #[diesel(sql_type = sql_types::Text)]
    pub status: String,
    #[diesel(sql_type = sql_types::BigInt)]
    pub version: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    pub amount: i64,
    #[diesel(sql_type = sql_types::Text)]
    pub currency: String,
    #[diesel(sql_type = sql_types::Nullable<sql_types::Timestamptz>)]
    pub archived_at: Option<DateTime<Utc>>,
    /// A line of text for each.
    #[diesel(sql_type = sql_types::Array<sql_types::Text>)]
    pub items: Vec<String>,
}

/// Something that happened, or the state that something has had since.
#[derive(Debug, QueryableByName, Serialize)]
pub struct Step {
    #[diesel(sql_type = sql_types::Timestamptz)]
    pub at: DateTime<Utc>,
    /// Whose tables say so.
    #[diesel(sql_type = sql_types::Text)]
    pub service: String,
    #[diesel(sql_type = sql_types::Text)]
    pub step: String,
    /// The id of what it happened to.
    #[diesel(sql_type = sql_types::Text)]
    pub about: String,
    #[diesel(sql_type = sql_types::Json)]
    pub details: Value,
}

/// Something that events of an order are about, and how many versions it has had.
#[derive(QueryableByName)]
struct Aggregate {
    #[diesel(sql_type = sql_types::Text)]
    kind: String,
    #[diesel(sql_type = sql_types::Text)]
    key: String,
    #[diesel(sql_type = sql_types::BigInt)]
    version: i64,
}

const OF_ORDERS: [&str; 6] = [
    OrderCreated::TOPIC,
    OrderCancelled::TOPIC,
    OrderExpired::TOPIC,
    OrderPlaced::TOPIC,
    OrderRefundRequested::TOPIC,
    OrderRefunded::TOPIC,
];
const OF_PAYMENTS: [&str; 4] =
    [PaymentApproved::TOPIC, PaymentFailed::TOPIC, PaymentUnknown::TOPIC, PaymentRefunded::TOPIC];

/// Runs the command.
pub async fn trace(args: TraceArgs, config: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let TraceCommand::Order { id, json, data_dir } = args.command;
    let data_dir = dev::data_dir(data_dir.as_deref())?;
    let settings = site::settings(config, &data_dir)?;
    let mut ledger = match Ledger::open(&settings).await {
        Ok(ledger) => ledger,
        Err(error) => return Ok(report(&error, &Origin::of(&data_dir))),
    };
    let Some(story) = read(&mut ledger, id).await? else {
        eprintln!(
            "stampede: no order {id} is stored, neither live nor archived; look at the id, and at host.namespace"
        );
        return Ok(ExitCode::FAILURE);
    };
    if json {
        say!("{}", serde_json::to_string(&story)?);
    } else {
        say!("{}", story.text().trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

/// The story of the order `id`; none if there is no such order.
pub async fn order(settings: &Settings, id: Uuid) -> anyhow::Result<Option<Story>> {
    read(&mut Ledger::open(settings).await?, id).await
}

async fn read(ledger: &mut Ledger, id: Uuid) -> anyhow::Result<Option<Story>> {
    // Times within details are texts.
    ledger.execute("set timezone = 'UTC'").await?;
    ledger.freeze().await?;
    let statement = ledger.statement(include_str!("trace/order.sql")).into_boxed();
    let Some(order) = ledger.bound_rows::<Order>(statement.bind::<sql_types::Uuid, _>(id)).await?.pop() else {
        return Ok(None);
    };
    let statement = ledger.statement(include_str!("trace/aggregates.sql")).into_boxed();
    let aggregates: Vec<Aggregate> = ledger.bound_rows(statement.bind::<sql_types::Uuid, _>(id)).await?;
    let (ids, topics): (Vec<Uuid>, Vec<&str>) = aggregates.iter().flat_map(possible_events).unzip();
    let statement = ledger.statement(include_str!("trace/steps.sql")).into_boxed();
    let statement = statement
        .bind::<sql_types::Uuid, _>(id)
        .bind::<sql_types::Array<sql_types::Uuid>, _>(ids)
        .bind::<sql_types::Array<sql_types::Text>, _>(topics);
    Ok(Some(Story { order, steps: ledger.bound_rows(statement).await? }))
}

/// The ids and topics of all events that may have been told of it. An id is derived, so a mark of a consumer and a
/// notification are found without the outbox's row, which is kept for a day.
fn possible_events(aggregate: &Aggregate) -> Vec<(Uuid, &'static str)> {
    let topics = if aggregate.kind == "order" { &OF_ORDERS[..] } else { &OF_PAYMENTS[..] };
    let of_version = |version: i64| {
        let id = move |topic: &str| {
            derive_uuid("event", &[topic.as_bytes(), aggregate.key.as_bytes(), version.to_string().as_bytes()])
        };
        topics.iter().map(move |topic| (id(topic), *topic))
    };
    (1..=aggregate.version).flat_map(of_version).collect()
}

impl Story {
    /// For people: the order, and a line for each step.
    pub fn text(&self) -> String {
        let Order { id, user_id, status, version, amount, currency, archived_at, items } = &self.order;
        let place = if archived_at.is_some() { ", archived" } else { "" };
        let mut text =
            format!("order {id} of user {user_id}: {status}, version {version}, {amount} {currency}{place}\n");
        for item in items {
            text.push_str(&format!("  {item}\n"));
        }
        for Step { at, service, step, about, details } in &self.steps {
            let at = at.to_rfc3339_opts(SecondsFormat::Millis, true);
            let details: Vec<String> =
                details.as_object().into_iter().flatten().map(|(name, value)| told(name, value)).collect();
            text.push_str(format!("{at}  {service:<16}  {step:<28}  {about}  {}", details.join(", ")).trim_end());
            text.push('\n');
        }
        text
    }
}

/// `name value`.
fn told(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => format!("{name} {text}"),
        Value::Array(items) => {
            let items: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            format!("{name} {}", items.join(" "))
        }
        other => format!("{name} {other}"),
    }
}
