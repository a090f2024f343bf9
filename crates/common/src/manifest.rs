//! `ServiceSpec`: everything the rest of the workspace has to know about a service, said once, by the service itself.
//!
//! A service crate has one `pub fn spec() -> ServiceSpec`. The gateway's path table, the command line's help, the audit,
//! the tests, the Kubernetes manifests and the tables in the documents are derived from the list of these.

use std::future::Future;
use std::pin::Pin;

use diesel_migrations::EmbeddedMigrations;

use crate::host::Host;
use crate::telemetry::Metric;

/// What a service is called, owns, says and hears.
#[derive(Clone, Copy)]
pub struct ServiceSpec {
    /// As in commands, addresses and metrics: lower case, words joined by `-`. The schema has `_` in its place.
    pub name: &'static str,
    /// What it is responsible for, in a few words.
    pub summary: &'static str,
    /// The path prefixes that the gateway sends here. The longest match decides; `*` stands for one segment.
    pub paths: &'static [&'static str],
    /// The paths among them, or below them, whose answers go on: a gateway must not limit their time.
    pub streams: &'static [&'static str],
    /// The tables of its schema, above those that every service has.
    pub migrations: fn() -> EmbeddedMigrations,
    /// Topics of the events that it publishes.
    pub produces: &'static [&'static str],
    /// Topics of the events that it applies.
    pub consumes: &'static [&'static str],
    /// Which of these its handlers do nothing with ([`crate::inbox::Handler::concerns`]), as a condition on a row `event` of an
    /// outbox. None: they do something with each.
    pub ignores: Option<&'static str>,
    /// Topics of the events that each of its replicas hears for itself, without an inbox.
    pub hears: &'static [&'static str],
    pub mount: Mount,
    /// Adds its routes without their state, which is all that the API's description needs.
    pub describe: fn(&mut Host),
    /// What is true of its own tables whenever the system is at rest.
    pub invariants: &'static [Invariant],
    /// Work that is begun and not ended.
    pub unfinished: &'static [Unfinished],
    /// What it counts, beside what the kit counts for every service.
    pub metrics: &'static [Metric],
    pub deploy: Deploy,
}

/// The name of a service where only letters, digits and `_` may stand: in settings and in PostgreSQL.
pub fn identifier(service: &str) -> String {
    service.replace('-', "_")
}

impl ServiceSpec {
    /// Every topic that it has to do with.
    pub fn topics(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.produces.iter().chain(self.consumes).chain(self.hears).copied()
    }
}

/// Opens the service's schema and adds its routes, gRPC services, consumers and loops to the host.
pub type Mount = for<'h> fn(&'h mut Host) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + 'h>>;

/// What its deployment has to know. `stampede manifests` writes the Kubernetes manifests from it.
#[derive(Debug, Clone, Copy)]
pub struct Deploy {
    /// The services that it asks over gRPC: nothing else of ours is reachable for it.
    pub calls: &'static [&'static str],
    /// Settings (`section.key`) that are secrets and that only it reads. Every service has those of PostgreSQL and Redis.
    pub secrets: &'static [&'static str],
    /// Ports of servers outside of the cluster that it calls, such as 443.
    pub outside: &'static [u16],
    /// What one replica asks for, in thousandths of a processor. It may use more where there is more.
    pub cpu_millis: u32,
    /// What one replica asks for and may not exceed.
    pub memory_mib: u32,
    /// Replicas at the most. The sum over all services times their connections must fit into PostgreSQL's.
    pub replicas_max: u32,
}

/// A statement that returns one line of text, `offender`, for each violation. `{order}` stands for the schema of order.
#[derive(Debug, Clone, Copy)]
pub struct Invariant {
    /// Its number in the design, such as `I1`. Several statements may check parts of one invariant.
    pub id: &'static str,
    pub sql: &'static str,
}

/// A kind of work that a system at rest has none of.
#[derive(Debug, Clone, Copy)]
pub struct Unfinished {
    pub what: &'static str,
    /// A statement whose single number, `count`, says how much of it there is. `{order}` stands for the schema of order.
    pub sql: &'static str,
}
