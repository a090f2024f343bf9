//! Clients of servers that are not ours: they are asked through the proxy that the environment names, if it names one.

use std::net::IpAddr;

use anyhow::Context as _;
use reqwest::{ClientBuilder, Url};

/// A client for `url`. It honours `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, but for what is on this machine: no
/// proxy reaches that.
pub fn client(url: &str) -> anyhow::Result<ClientBuilder> {
    let url: Url = url.parse().context("it is no URL")?;
    let builder = reqwest::Client::builder();
    Ok(if is_here(&url) { builder.no_proxy() } else { builder })
}

fn is_here(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_never_asked_through_a_proxy() {
        let is_here = |url: &str| is_here(&url.parse().unwrap());
        assert!(["http://127.0.0.1:1/a", "https://localhost", "http://[::1]:8080"].into_iter().all(is_here));
        assert!(!["http://127.0.0.1.example.com", "https://10.0.0.1", "https://pay.example"].into_iter().any(is_here));
    }
}
