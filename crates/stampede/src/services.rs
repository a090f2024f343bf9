//! The services this executable can host, and the path table by which clients reach them.

use std::str::FromStr;

use common::Host;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Account,
    Inventory,
    Order,
    Payment,
    NotificationHub,
}

impl Service {
    pub const ALL: [Service; 5] =
        [Service::Account, Service::Inventory, Service::Order, Service::Payment, Service::NotificationHub];

    pub fn name(self) -> &'static str {
        match self {
            Service::Account => "account",
            Service::Inventory => "inventory",
            Service::Order => "order",
            Service::Payment => "payment",
            Service::NotificationHub => "notification-hub",
        }
    }

    /// The API gateway is this table: which paths go where. The longest prefix decides; `*` stands for one segment, and a
    /// path with one comes before those without.
    pub fn paths(self) -> &'static [&'static str] {
        match self {
            Service::Account => &["/api/v1/auth", "/.well-known"],
            Service::Inventory => &["/api/v1/products", "/api/v1/admin/products", "/api/v1/admin/holds"],
            Service::Order => &["/api/v1/orders"],
            Service::Payment => &[
                "/api/v1/payments",
                "/api/v1/orders/*/payments",
                "/api/v1/points",
                "/api/v1/webhooks/pg",
                "/api/v1/admin/payments",
                "/api/v1/admin/reconciliation",
            ],
            Service::NotificationHub => &["/api/v1/notifications"],
        }
    }

    pub async fn mount(self, host: &mut Host) -> anyhow::Result<()> {
        match self {
            Service::Account => account::mount(host).await,
            Service::Inventory => inventory::mount(host).await,
            Service::Order => order::mount(host).await,
            Service::Payment => payment::mount(host).await,
            Service::NotificationHub => notification_hub::mount(host).await,
        }
    }
}

impl FromStr for Service {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Service> {
        Service::ALL.into_iter().find(|service| service.name() == text).ok_or_else(|| {
            let names = Service::ALL.map(Service::name).join(", ");
            anyhow::anyhow!("{text:?} is neither a command nor a service; the services are {names}")
        })
    }
}

/// Mounts `services`, and reflection for people with `grpcurl`.
pub async fn mount(host: &mut Host, services: &[Service]) -> anyhow::Result<()> {
    for service in services {
        service.mount(host).await?;
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(contract::DESCRIPTORS)
        .build_v1()?;
    host.grpc(reflection);
    Ok(())
}

/// Mounts only the routes' descriptions; see [`Host::openapi`].
pub fn describe(host: &mut Host) {
    host.http(account::routes);
    host.http_root(account::root_routes);
    host.http(inventory::routes);
    host.http(order::routes);
    host.http(payment::routes);
    host.http(notification_hub::routes);
}
