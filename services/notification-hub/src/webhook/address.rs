//! Rules: where a webhook may lead. A request from inside a network reaches what nobody outside can, so only addresses
//! of the public internet are called, however they are written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;

/// What is allowed beyond the public internet and HTTPS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowed {
    pub http: bool,
    pub private_addresses: bool,
}

/// Networks that are not of the public internet, by the registries of special-purpose addresses.
const SPECIAL_V4: [(Ipv4Addr, u32); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),       // this network
    (Ipv4Addr::new(10, 0, 0, 0), 8),      // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),   // shared with customers of a carrier
    (Ipv4Addr::new(127, 0, 0, 0), 8),     // this host
    (Ipv4Addr::new(169, 254, 0, 0), 16),  // link-local; cloud metadata
    (Ipv4Addr::new(172, 16, 0, 0), 12),   // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),    // protocol assignments
    (Ipv4Addr::new(192, 0, 2, 0), 24),    // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),  // 6to4 relays
    (Ipv4Addr::new(192, 168, 0, 0), 16),  // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),   // benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24), // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),  // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),     // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),     // reserved; broadcast
];

/// The parts of 2000::/3 that are not of the public internet. Whatever lies outside it is not either.
const SPECIAL_V6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocol assignments; Teredo, which carries an IPv4 address
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4, which carries an IPv4 address
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

/// IPv4 behind a translator: the last 32 bits are the address that is reached.
const TRANSLATED: (Ipv6Addr, u32) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
const UNICAST: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Whether `address` is one of the public internet.
pub fn is_global(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_global_v4(address),
        IpAddr::V6(address) if is_within_v6(address, TRANSLATED) => {
            is_global_v4(Ipv4Addr::from_bits(address.to_bits() as u32))
        }
        IpAddr::V6(address) => {
            is_within_v6(address, UNICAST) && !SPECIAL_V6.iter().any(|network| is_within_v6(address, *network))
        }
    }
}

fn is_global_v4(address: Ipv4Addr) -> bool {
    let is_within = |(network, prefix): &(Ipv4Addr, u32)| (address.to_bits() ^ network.to_bits()) >> (32 - prefix) == 0;
    !SPECIAL_V4.iter().any(is_within)
}

fn is_within_v6(address: Ipv6Addr, (network, prefix): (Ipv6Addr, u32)) -> bool {
    (address.to_bits() ^ network.to_bits()) >> (128 - prefix) == 0
}

/// Why an address is not called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    #[error("is not an absolute address")]
    NotAnAddress,
    #[error("must begin with https://")]
    NotHttps,
    #[error("must not contain a user name or a password")]
    Credentials,
    #[error("must not have a fragment")]
    Fragment,
    #[error("is not on the public internet")]
    NotGlobal,
}

/// The address in `text`, as far as it can be judged without asking for the addresses of its name.
pub fn parse(text: &str, allowed: Allowed) -> Result<Url, NotAllowed> {
    let url = Url::parse(text).map_err(|_| NotAllowed::NotAnAddress)?;
    match url.scheme() {
        "https" => {}
        "http" if allowed.http => {}
        _ => return Err(NotAllowed::NotHttps),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(NotAllowed::Credentials);
    }
    if url.fragment().is_some() {
        return Err(NotAllowed::Fragment);
    }
    check_host(&url, allowed)?;
    Ok(url)
}

/// A host that is written as an address is never resolved, so it is judged here. All ways to write one have become the
/// same when the text was parsed: `0x7f.1` is 127.0.0.1.
fn check_host(url: &Url, allowed: Allowed) -> Result<(), NotAllowed> {
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or(NotAllowed::NotAnAddress)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(address) => check(&[address], allowed),
        Err(_) => Ok(()),
    }
}

/// Refuses a name that leads to any address outside the public internet: which of them is called is chance.
pub fn check(addresses: &[IpAddr], allowed: Allowed) -> Result<(), NotAllowed> {
    if allowed.private_addresses || addresses.iter().all(|address| is_global(*address)) {
        return Ok(());
    }
    Err(NotAllowed::NotGlobal)
}

#[cfg(test)]
mod tests;
