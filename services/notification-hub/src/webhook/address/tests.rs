//! Ways to write an address that must not be called, and some that may.

use super::*;

/// Every one of these leads into a network, to this host, or is no address of the web.
const REFUSED: [&str; 78] = [
    "https://127.0.0.1/",
    "https://127.1/",
    "https://127.0.1/",
    "https://127.255.255.254/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0x7f.0x0.0x0.0x1/",
    "https://0177.0.0.1/",
    "https://017700000001/",
    "https://127.0.0.1./",
    "https://127.0.0.1:8443/",
    "https://①②⑦.0.0.1/",
    "https://127。0。0。1/",
    "https://%31%32%37.0.0.1/",
    "https://0.0.0.0/",
    "https://0/",
    "https://0.1.2.3/",
    "https://10.0.0.1/",
    "https://10.255.255.255/",
    "https://0xa000001/",
    "https://100.64.0.1/",
    "https://100.127.255.255/",
    "https://169.254.169.254/latest/meta-data/",
    "https://169.254.0.1/",
    "https://0xa9fea9fe/",
    "https://2852039166/",
    "https://172.16.0.1/",
    "https://172.31.255.255/",
    "https://192.0.0.8/",
    "https://192.0.2.1/",
    "https://192.88.99.1/",
    "https://192.168.0.1/",
    "https://192.168.255.255/",
    "https://0xc0a80001/",
    "https://198.18.0.1/",
    "https://198.19.255.255/",
    "https://198.51.100.7/",
    "https://203.0.113.9/",
    "https://224.0.0.1/",
    "https://239.255.255.255/",
    "https://240.0.0.1/",
    "https://255.255.255.255/",
    "https://[::]/",
    "https://[::1]/",
    "https://[0:0:0:0:0:0:0:1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[::ffff:10.0.0.1]/",
    "https://[::ffff:169.254.169.254]/",
    "https://[::127.0.0.1]/",
    "https://[64:ff9b::127.0.0.1]/",
    "https://[64:ff9b::a9fe:a9fe]/",
    "https://[64:ff9b:1::1]/",
    "https://[100::1]/",
    "https://[2001::1]/",
    "https://[2001:2::1]/",
    "https://[2001:10::1]/",
    "https://[2001:db8::1]/",
    "https://[2002:7f00:1::]/",
    "https://[2002:a9fe:a9fe::1]/",
    "https://[3fff::1]/",
    "https://[fc00::1]/",
    "https://[fd00:ec2::254]/",
    "https://[fe80::1]/",
    "https://[fec0::1]/",
    "https://[ff02::1]/",
    "https://[::ffff:0:127.0.0.1]/",
    "http://93.184.216.34/",
    "http://example.com/",
    "gopher://example.com/",
    "file:///etc/passwd",
    "ftp://example.com/",
    "https://user@example.com/",
    "https://user:password@example.com/",
    "https://example.com@127.0.0.1/",
    "https://example.com/#fragment",
    "//example.com/",
];

const CALLED: [&str; 12] = [
    "https://example.com/",
    "https://example.com:8443/hooks?id=1",
    "https://한글.kr/hook",
    "https://93.184.216.34/",
    "https://1.1.1.1/",
    "https://100.63.255.255/",
    "https://172.32.0.1/",
    "https://192.167.255.255/",
    "https://223.255.255.255/",
    "https://[2606:4700:4700::1111]/",
    "https://[2001:4860:4860::8888]/",
    "https://[64:ff9b::1.1.1.1]/",
];

#[test]
fn nothing_but_the_public_internet_over_https_is_called() {
    for text in REFUSED {
        assert!(parse(text, Allowed::default()).is_err(), "{text}");
    }
    for text in CALLED {
        assert!(parse(text, Allowed::default()).is_ok(), "{text}");
    }
}

#[test]
fn a_name_that_leads_to_one_private_address_is_refused_whole() {
    let global: IpAddr = "1.1.1.1".parse().unwrap();
    for private in ["127.0.0.1", "::1", "10.1.2.3", "fd00::1", "::ffff:192.168.0.1", "169.254.169.254"] {
        let private: IpAddr = private.parse().unwrap();
        assert_eq!(check(&[global, private], Allowed::default()), Err(NotAllowed::NotGlobal), "{private}");
        assert_eq!(check(&[private], Allowed { private_addresses: true, http: false }), Ok(()));
    }
    assert_eq!(check(&[global], Allowed::default()), Ok(()));
}

#[test]
fn settings_allow_http_and_private_addresses_one_by_one() {
    let http = Allowed { http: true, private_addresses: false };
    assert!(parse("http://example.com/", http).is_ok());
    assert_eq!(parse("http://127.0.0.1/", http), Err(NotAllowed::NotGlobal));
    let private = Allowed { http: false, private_addresses: true };
    assert!(parse("https://127.0.0.1/", private).is_ok());
    assert_eq!(parse("http://127.0.0.1/", private), Err(NotAllowed::NotHttps));
    assert!(parse("gopher://127.0.0.1/", Allowed { http: true, private_addresses: true }).is_err());
}
