//! `SERVICES`: every service of this executable. Whatever has to know all of them derives it from this list.

use common::Host;
use common::manifest::ServiceSpec;

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

/// Mounts `services`, and reflection for people with `grpcurl`.
pub async fn mount(host: &mut Host, services: &[ServiceSpec]) -> anyhow::Result<()> {
    for service in services {
        (service.mount)(host).await?;
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(contract::DESCRIPTORS)
        .build_v1()?;
    host.grpc(reflection);
    Ok(())
}

/// Mounts only the routes' descriptions; see [`Host::openapi`].
pub fn describe(host: &mut Host) {
    SERVICES.iter().for_each(|service| (service.describe)(host));
}
