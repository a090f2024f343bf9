//! The keys with which the services of a site prove to each other who they are: made anew at each start.

use std::collections::BTreeMap;

use common::rpc::{ServiceKey, new_key};
use serde::{Deserialize, Serialize};

use crate::services::SERVICES;

/// By service, its private key.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Keys(BTreeMap<String, String>);

impl Keys {
    /// One key for all, since a process has one.
    pub fn for_all() -> anyhow::Result<Keys> {
        let key = new_key()?;
        Ok(Keys(SERVICES.iter().map(|service| (service.name.to_owned(), key.clone())).collect()))
    }

    /// One for each service, since each is a process.
    pub fn for_each() -> anyhow::Result<Keys> {
        let keys = SERVICES.iter().map(|service| Ok((service.name.to_owned(), new_key()?)));
        Ok(Keys(keys.collect::<anyhow::Result<_>>()?))
    }

    pub fn of(&self, service: &str) -> Option<&String> {
        self.0.get(service)
    }

    /// The public halves, as settings.
    pub fn public(&self) -> anyhow::Result<Vec<(String, String)>> {
        let setting = |(service, key): (&String, &String)| {
            let name = format!("rpc.public_keys.{}", service.replace('-', "_"));
            Ok((name, ServiceKey::read(key)?.public().to_owned()))
        };
        self.0.iter().map(setting).collect()
    }
}
