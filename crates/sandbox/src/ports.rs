//! Free loopback ports, remembered in `sandbox.json` so that a second start has the addresses of the first.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// Below this, ports belong to well-known services.
const PORT_MIN: u16 = 15_000;

/// With fewer ports to choose from, sandboxes that start together would often choose the same.
const PORTS_MIN: u16 = 1_000;

/// How many ports to try before giving up. Nearly all of them are free on any machine.
const TRIES_MAX: u32 = 1_000;

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ports {
    pub(crate) postgres: u16,
    pub(crate) redis: u16,
    pub(crate) kafka: u16,
    pub(crate) kafka_controller: u16,
    pub(crate) fakes: u16,
}

impl Ports {
    /// The ports of the last start if they are still free, else new ones.
    pub(crate) fn choose(file: &Path) -> Result<Ports> {
        let remembered = fs::read_to_string(file).ok().and_then(|text| serde_json::from_str::<Ports>(&text).ok());
        let mut taken = BTreeSet::new();
        let mut keep = |before: Option<u16>| -> Result<u16> {
            match before {
                Some(port) if is_free(port) && taken.insert(port) => Ok(port),
                _ => loop {
                    let port = free_port()?;
                    if taken.insert(port) {
                        return Ok(port);
                    }
                },
            }
        };
        let ports = Ports {
            postgres: keep(remembered.map(|ports| ports.postgres))?,
            redis: keep(remembered.map(|ports| ports.redis))?,
            kafka: keep(remembered.map(|ports| ports.kafka))?,
            kafka_controller: keep(remembered.map(|ports| ports.kafka_controller))?,
            fakes: keep(remembered.map(|ports| ports.fakes))?,
        };
        let text = serde_json::to_string_pretty(&ports)?;
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(ports)
    }
}

/// A loopback port that nobody listens on.
///
/// It lies below the range that the kernel hands to outgoing connections: while a server is down, a client that
/// keeps calling an address inside that range can be given the very port it calls, connect to itself, and so
/// keep the server from coming back.
///
/// No port is chosen twice in one process: a server takes seconds to listen on its own, and another sandbox that starts
/// meanwhile would find it free.
pub(crate) fn free_port() -> Result<u16> {
    static CHOSEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let end = match first_outgoing_port() {
        first if first > PORT_MIN + PORTS_MIN => first,
        // This machine uses nearly all ports for outgoing connections, so there is no better half.
        _ => u16::MAX,
    };
    for _ in 0..TRIES_MAX {
        let port = rand::rng().random_range(PORT_MIN..end);
        if is_free(port) && CHOSEN.lock().insert(port) {
            return Ok(port);
        }
    }
    bail!("found no free port on 127.0.0.1 between {PORT_MIN} and {end}")
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn first_outgoing_port() -> u16 {
    /// Linux's own default, for where /proc does not say.
    const FIRST_OUTGOING_PORT: u16 = 32_768;
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(FIRST_OUTGOING_PORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_chosen_twice() {
        const MANY: usize = 1_000;
        let chosen: BTreeSet<u16> = (0..MANY).map(|_| free_port().unwrap()).collect();
        assert_eq!(chosen.len(), MANY);
    }
}
