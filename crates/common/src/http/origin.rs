//! Who a request comes from, behind as many proxies of ours as the settings say.

use std::net::{IpAddr, SocketAddr};

use actix_web::{HttpRequest, web};
use serde::Deserialize;

/// How far the headers of a request are believed.
#[derive(Debug, Clone, Copy)]
pub struct TrustedProxies {
    pub count: usize,
    pub header: ForwardedHeader,
}

/// The header that our proxies write. Only one is read: the other comes from the client as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

/// Where a request comes from, as a key: an IPv4 address or an IPv6 /64, which is what one subscriber has.
///
/// Of the addresses that proxies have added, the last as many as there are proxies of ours are true. What stands before
/// them is whatever the client claims.
pub fn client_address(request: &HttpRequest) -> Option<IpAddr> {
    let trusted = request.app_data::<web::Data<TrustedProxies>>().map(|trusted| *trusted.get_ref());
    let forwarded = trusted.filter(|trusted| trusted.count > 0).and_then(|trusted| {
        let entries = match trusted.header {
            ForwardedHeader::XForwardedFor => entries(request, "x-forwarded-for"),
            ForwardedHeader::Forwarded => entries(request, "forwarded"),
        };
        let entry = entries.len().saturating_sub(trusted.count);
        let entry = entries.get(entry)?;
        match trusted.header {
            ForwardedHeader::XForwardedFor => parse_node(entry),
            ForwardedHeader::Forwarded => parse_node(node_of(entry)?),
        }
    });
    forwarded.or_else(|| request.peer_addr().map(|peer| peer.ip())).map(subscriber)
}

/// All entries in the order in which they were added, whether in one header or in several.
fn entries<'r>(request: &'r HttpRequest, header: &str) -> Vec<&'r str> {
    let values = request.headers().get_all(header).filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|entry| !entry.is_empty()).collect()
}

/// The `for` of one element of `Forwarded`.
fn node_of(element: &str) -> Option<&str> {
    let mut parameters = element.split(';').filter_map(|parameter| parameter.split_once('='));
    let (_, node) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    Some(node.trim().trim_matches('"'))
}

/// An address as balancers write it: bare, with a port, and IPv6 in brackets.
fn parse_node(text: &str) -> Option<IpAddr> {
    let bare = text.parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    bare.or_else(with_port).or_else(in_brackets)
}

fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn seen(count: usize, header: ForwardedHeader, sent: &[(&'static str, &str)]) -> String {
        let mut request = TestRequest::default().peer_addr("192.0.2.1:999".parse().unwrap());
        request = request.app_data(web::Data::new(TrustedProxies { count, header }));
        for (name, value) in sent {
            request = request.append_header((*name, *value));
        }
        client_address(&request.to_http_request()).unwrap().to_string()
    }

    #[test]
    fn only_the_entries_that_our_proxies_wrote_count() {
        let sent = [("x-forwarded-for", "10.0.0.1, 198.51.100.7, 203.0.113.9")];
        for (count, expected) in
            [(0, "192.0.2.1"), (1, "203.0.113.9"), (2, "198.51.100.7"), (3, "10.0.0.1"), (4, "10.0.0.1")]
        {
            assert_eq!(seen(count, ForwardedHeader::XForwardedFor, &sent), expected, "{count}");
        }
        let twice = [("x-forwarded-for", "10.0.0.1"), ("x-forwarded-for", "203.0.113.9")];
        assert_eq!(seen(1, ForwardedHeader::XForwardedFor, &twice), "203.0.113.9");
        assert_eq!(seen(1, ForwardedHeader::XForwardedFor, &[]), "192.0.2.1");
        let other = [("x-forwarded-for", "203.0.113.9"), ("forwarded", "for=10.0.0.1")];
        assert_eq!(seen(1, ForwardedHeader::XForwardedFor, &other), "203.0.113.9");
        assert_eq!(seen(1, ForwardedHeader::Forwarded, &other), "10.0.0.1");
    }

    #[test]
    fn an_address_is_read_in_every_form_that_balancers_write() {
        for (text, expected) in [
            ("203.0.113.9", "203.0.113.9"),
            ("203.0.113.9:4711", "203.0.113.9"),
            ("2001:db8:1:2:3::9", "2001:db8:1:2::"),
            ("[2001:db8:1:2:3::9]", "2001:db8:1:2::"),
            ("[2001:db8:1:2:3::9]:4711", "2001:db8:1:2::"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
            ("unknown", "192.0.2.1"),
            ("_hidden", "192.0.2.1"),
        ] {
            assert_eq!(seen(1, ForwardedHeader::XForwardedFor, &[("x-forwarded-for", text)]), expected, "{text}");
            for written in [format!("for=\"{text}\";proto=https"), format!("by=x; FOR=\"{text}\"")] {
                assert_eq!(seen(1, ForwardedHeader::Forwarded, &[("forwarded", &written)]), expected, "{written}");
            }
        }
    }

    #[test]
    fn one_ipv6_subscriber_is_one_key() {
        assert_eq!(subscriber("2001:db8:1:2:3::9".parse().unwrap()), subscriber("2001:db8:1:2::1".parse().unwrap()));
    }
}
