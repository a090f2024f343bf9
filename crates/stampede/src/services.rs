//! `SERVICES`: every service of this executable. Whatever has to know all of them derives it from this list.

use std::path::Path;

use common::Host;
use common::manifest::ServiceSpec;
use common::settings::Settings;

/// In the order in which they are mounted and listed.
pub static SERVICES: &[ServiceSpec] = &[
    account::spec(),
    inventory::spec(),
    coupon::spec(),
    order::spec(),
    payment::spec(),
    notification_hub::spec(),
    queue::spec(),
];

/// The names of all services, for people.
pub fn names() -> String {
    SERVICES.iter().map(|service| service.name).collect::<Vec<_>>().join(", ")
}

/// The service of this name. The error lists those that there are.
pub fn find(name: &str) -> anyhow::Result<ServiceSpec> {
    SERVICES
        .iter()
        .find(|service| service.name == name)
        .copied()
        .ok_or_else(|| anyhow::anyhow!("{name:?} is neither a command nor a service; the services are {}", names()))
}

/// Mounts `services`, and reflection for people with `grpcurl`. Those of [`SERVICES`] may call them that say so in their manifests.
pub async fn mount(host: &mut Host, services: &[ServiceSpec]) -> anyhow::Result<()> {
    host.examples(contract::examples::examples());
    for service in services {
        host.mount(service).await?;
    }
    for caller in SERVICES {
        caller.deploy.calls.iter().for_each(|callee| host.allow(caller.name, callee));
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(contract::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // The details of an error: without it, tools show them as bytes.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    host.open_grpc(reflection);
    Ok(())
}

/// The OpenAPI description of all services. It comes from the routes, so it needs no server but a place to mount them.
pub async fn description(files: &[&Path]) -> anyhow::Result<String> {
    let offline = [("host.http_listen", "127.0.0.1:0"), ("host.grpc_listen", "127.0.0.1:0"), ("host.migrate", "false")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut host = Host::new(Settings::load(files, &offline)?).await?;
    host.examples(contract::examples::examples());
    SERVICES.iter().for_each(|service| (service.describe)(&mut host));
    Ok(serde_json::to_string_pretty(&host.openapi()?)?)
}
