use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use http::Uri;
use reqwest::Url;

/// The longest URL of a webhook.
const MAX_URL: usize = 2048;

/// What is not on the Internet: the special-purpose registries of RFC 6890, and multicast.
const SPECIAL_V4: [(Ipv4Addr, u32); 15] = [
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    // Between a provider and its customers.
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    // A cloud's metadata.
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// What is on the Internet in IPv6 …
const GLOBAL_V6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// … but for these. Teredo and 6to4 hold an IPv4 address, and lead to it by ways of their own.
const SPECIAL_V6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// An IPv4 address at the end of one of these is what is reached (RFC 6052).
const NAT64: (Ipv6Addr, u32) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// Ports of HTTP and HTTPS, for an entry that names no port: any other belongs to another program of the host.
const DEFAULT_PORTS: [u16; 2] = [80, 443];

/// Which hosts and ports webhooks may name, and which addresses they may lead to.
#[derive(Clone, Debug)]
pub struct AllowList {
    hosts: Arc<[(Host, Option<u16>)]>,
    networks: Arc<[(Network, Option<u16>)]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// `example.org`
    Exactly(String),
    /// `*.example.org`, without the asterisk.
    EndsIn(String),
}

/// An address, or all addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u32,
}

/// Why a webhook cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadWebhook {
    /// Nothing that can be called.
    #[error("it is no complete URL")]
    NoUrl,
    /// Longer than URLs are.
    #[error("its URL has more than {MAX_URL} characters")]
    TooLong,
    /// `file:`, `ftp:`, …
    #[error("its URL begins with neither http:// nor https://")]
    Scheme,
    /// `user:password@`.
    #[error("its URL holds credentials; the call is signed instead")]
    Credentials,
    /// Not a host that is named.
    #[error("WEBHOOK_ALLOW does not name its host {0:?}")]
    Host(String),
    /// A host that is named, and another port.
    #[error(
        "WEBHOOK_ALLOW names its host, but not with port {1}: an entry without a port allows 80 and 443, {0}:{1} allows this one"
    )]
    Port(String, u16),
}

impl AllowList {
    /// The URL, if its host may be named. Where that leads is another question: [`AllowList::permits`].
    pub fn check(&self, text: &str) -> Result<Url, BadWebhook> {
        if text.len() > MAX_URL {
            return Err(BadWebhook::TooLong);
        }
        let url = Url::parse(text).map_err(|_| BadWebhook::NoUrl)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(BadWebhook::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BadWebhook::Credentials);
        }
        if url.as_str().parse::<Uri>().is_err() {
            return Err(BadWebhook::NoUrl);
        }
        // Also of `0x7f.1` an address has been made by now.
        let host = url.host_str().ok_or(BadWebhook::NoUrl)?;
        let port = url.port_or_known_default().ok_or(BadWebhook::NoUrl)?;
        let ports: Vec<Option<u16>> = self.ports(host).collect();
        if ports.is_empty() {
            return Err(BadWebhook::Host(host.to_owned()));
        }
        let is_named = ports.iter().any(|named| named.map_or(DEFAULT_PORTS.contains(&port), |named| named == port));
        if is_named { Ok(url) } else { Err(BadWebhook::Port(host.to_owned(), port)) }
    }

    /// The port of each entry that names the host.
    fn ports(&self, host: &str) -> impl Iterator<Item = Option<u16>> {
        let address = address(host).map(reached);
        let host = host.strip_suffix('.').unwrap_or(host);
        let names = self.hosts.iter().filter(move |(named, _)| address.is_none() && named.is(host));
        let networks = self.networks.iter().filter(move |(network, _)| address.is_some_and(|at| network.holds(at)));
        names.map(|(_, port)| *port).chain(networks.map(|(_, port)| *port))
    }

    /// Whether a connection may go there: on the Internet, or in a network that is named. The port was checked with the host's name.
    pub fn permits(&self, address: IpAddr) -> bool {
        is_global(reached(address)) || self.names_address(address)
    }

    fn names_address(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|(network, _)| network.holds(reached(address)))
    }
}

/// Comma-separated.
impl FromStr for AllowList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut hosts, mut networks) = (Vec::new(), Vec::new());
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let error = || {
                format!(
                    "{entry:?} is none of example.org, *.example.org, 10.1.2.3, 10.0.0.0/8, fd00::/8, \
                     or one of them with a port: example.org:8080, 10.0.0.0/8:8080, [fd00::/8]:8080"
                )
            };
            let (named, port) = split_port(entry).ok_or_else(error)?;
            match Network::read(named) {
                Some(network) => networks.push((network, port)),
                None => hosts.push((Host::read(named).ok_or_else(error)?, port)),
            }
        }
        if hosts.is_empty() && networks.is_empty() {
            return Err(format!("{text:?} names no host"));
        }
        Ok(Self { hosts: hosts.into(), networks: networks.into() })
    }
}

/// An entry, and the port behind it. An IPv6 address or network with a port is in brackets.
fn split_port(entry: &str) -> Option<(&str, Option<u16>)> {
    let (named, port) = match entry.strip_prefix('[').and_then(|entry| entry.split_once(']')) {
        Some((named, "")) => return Some((named, None)),
        Some((named, port)) => (named, port.strip_prefix(':')?),
        None => match entry.split_once(':') {
            Some((named, port)) if !port.contains(':') => (named, port),
            _ => return Some((entry, None)),
        },
    };
    let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
    Some((named, Some(port)))
}

impl Host {
    fn is(&self, host: &str) -> bool {
        match self {
            Self::Exactly(name) => host == name,
            Self::EndsIn(end) => host.len() > end.len() && host.ends_with(end.as_str()),
        }
    }

    fn read(entry: &str) -> Option<Self> {
        let (name, is_end) = entry.strip_prefix("*.").map_or((entry, false), |end| (end, true));
        if !name.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_')) {
            return None;
        }
        // As a URL's host is written: small letters, and Punycode.
        let url = Url::parse(&format!("http://{name}/")).ok()?;
        let name = url.host_str().filter(|name| address(name).is_none())?.trim_end_matches('.');
        Some(if is_end { Self::EndsIn(format!(".{name}")) } else { Self::Exactly(name.to_owned()) })
    }
}

impl Network {
    fn read(entry: &str) -> Option<Self> {
        let (start, bits) = entry.split_once('/').map_or((entry, None), |(start, bits)| (start, Some(bits)));
        let address = address(start)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(most), |bits| bits.parse().ok().filter(|bits| *bits <= most))?;
        Some(Self { address, bits })
    }

    fn holds(self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(network), IpAddr::V4(address)) => begins_v4((network, self.bits), address),
            (IpAddr::V6(network), IpAddr::V6(address)) => begins_v6((network, self.bits), address),
            _ => false,
        }
    }
}

/// The address that a host is, with or without the brackets of a URL; `None` for a name.
pub(super) fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// The IPv4 address where one is only wrapped up.
fn reached(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if begins_v6(NAT64, v6) => {
            let [.., a, b, c, d] = v6.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        address => address.to_canonical(),
    }
}

fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !SPECIAL_V4.iter().any(|network| begins_v4(*network, address)),
        IpAddr::V6(address) => {
            begins_v6(GLOBAL_V6, address) && !SPECIAL_V6.iter().any(|network| begins_v6(*network, address))
        }
    }
}

fn begins_v4((network, bits): (Ipv4Addr, u32), address: Ipv4Addr) -> bool {
    (network.to_bits() ^ address.to_bits()).leading_zeros() >= bits
}

fn begins_v6((network, bits): (Ipv6Addr, u32), address: Ipv6Addr) -> bool {
    (network.to_bits() ^ address.to_bits()).leading_zeros() >= bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> AllowList {
        text.parse().unwrap()
    }

    #[test]
    fn only_what_is_on_the_internet_is_called() {
        let named = list("hooks.example.org");
        let inside = "0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.254 169.254.169.254 \
            172.16.0.1 172.31.255.255 192.0.0.8 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.19.255.255 \
            198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 \
            :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0:127.0.0.1 \
            64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 fe80::1 febf::1 fec0::1 fc00::1 fd00:ec2::254 \
            ff02::1 ff0e::1 2001::1 2001:0:7f00:1::1 2001:2::1 2001:10::1 2001:1ff::1 2001:db8::1 2002:7f00:1::1 \
            3fff::1 3fff:fff::1 4000::1 5f00::1";
        for address in inside.split_whitespace() {
            assert!(!named.permits(address.parse().unwrap()), "{address}");
        }
        let outside = "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.1 100.63.255.255 100.128.0.1 126.0.0.1 128.0.0.1 \
            169.253.1.1 172.15.255.255 172.32.0.1 192.167.1.1 192.169.1.1 198.17.0.1 198.20.0.1 223.255.255.255 \
            ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2001:200::1 2001:4860:4860::8888 2606:4700:4700::1111 2a00:1450::1 3ffe::1";
        for address in outside.split_whitespace() {
            assert!(named.permits(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_network_that_is_named_is_called() {
        let inside = list("10.1.0.0/16, 127.0.0.1, fd00::/8, hooks.example.org");
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "127.0.0.1", "fd12::1", "1.1.1.1"] {
            assert!(inside.permits(address.parse().unwrap()), "{address}");
        }
        for address in ["10.2.0.1", "127.0.0.2", "fc00::1", "::1", "192.168.1.1"] {
            assert!(!inside.permits(address.parse().unwrap()), "{address}");
        }
        assert!(list("0.0.0.0/0").permits("10.0.0.1".parse().unwrap()));
        assert!(!list("0.0.0.0/0").permits("::1".parse().unwrap()));
    }

    #[test]
    fn a_webhook_names_a_host_that_is_named() {
        let list = list("hooks.example.org, *.Example.COM, bücher.example, 127.0.0.0/8, ::1");
        let good = "http://hooks.example.org https://HOOKS.example.org:443/a?b=c#d http://hooks.example.org. \
            http://a.example.com https://b.a.example.com http://xn--bcher-kva.example/ http://BÜCHER.example \
            https://127.0.0.1:80 http://2130706433/ http://0x7f.1/ http://[::1]/ http://[::ffff:127.0.0.1]/";
        for url in good.split_whitespace() {
            assert!(list.check(url).is_ok(), "{url}");
        }
        let elsewhere = "http://example.org http://xhooks.example.org http://hooks.example.org.evil.example \
            http://example.com http://evilexample.com http://10.0.0.1 http://8.8.8.8 http://[::2] http://localhost \
            http://169.254.169.254/latest/meta-data http://hooks.example.org..";
        for url in elsewhere.split_whitespace() {
            assert!(matches!(list.check(url), Err(BadWebhook::Host(_))), "{url} {:?}", list.check(url));
        }
        let tables = [
            ("hooks.example.org/x", BadWebhook::NoUrl),
            ("", BadWebhook::NoUrl),
            ("http://", BadWebhook::NoUrl),
            ("ftp://hooks.example.org", BadWebhook::Scheme),
            ("file:///etc/passwd", BadWebhook::Scheme),
            ("gopher://127.0.0.1", BadWebhook::Scheme),
            ("http://user@hooks.example.org", BadWebhook::Credentials),
            ("http://:pass@hooks.example.org", BadWebhook::Credentials),
            ("http://hooks.example.org@10.0.0.1/", BadWebhook::Credentials),
        ];
        for (url, error) in tables {
            assert_eq!(list.check(url).unwrap_err(), error, "{url}");
        }
        assert_eq!(list.check(&format!("http://a.example.com/{}", "x".repeat(2048))), Err(BadWebhook::TooLong));
    }

    #[test]
    fn a_port_is_part_of_an_entry_and_80_and_443_of_one_without() {
        let list = list(
            "hooks.example.org, hooks.example.org:8443, *.example.com:9000, 10.0.0.0/8:8080, [fd00::/8]:8080, [::1]",
        );
        let good = "http://hooks.example.org https://hooks.example.org http://hooks.example.org:443 https://hooks.example.org:8443 \
            http://a.example.com:9000 http://10.1.2.3:8080 http://[fd00::1]:8080 http://[::1]";
        for url in good.split_whitespace() {
            assert!(list.check(url).is_ok(), "{url}");
        }
        let bad = "http://hooks.example.org:22 http://hooks.example.org:6379 http://a.example.com http://a.example.com:8443 \
            http://10.1.2.3 http://[fd00::1] http://[::1]:8080";
        for url in bad.split_whitespace() {
            assert!(matches!(list.check(url), Err(BadWebhook::Port(..))), "{url} {:?}", list.check(url));
        }
        let error = list.check("http://hooks.example.org:6379").unwrap_err().to_string();
        assert!(error.contains("hooks.example.org:6379") && error.contains("80 and 443"), "{error}");
    }

    #[test]
    fn a_list_says_what_in_it_is_no_host() {
        for bad in [
            "",
            " , ",
            "*",
            "*.",
            "http://a.example",
            "a.example:0",
            "a.example:http",
            "[::1]8080",
            "a b",
            "10.0.0.0/33",
            "::/129",
            "a@b",
            "0x7f.1",
        ] {
            let error = bad.parse::<AllowList>().unwrap_err();
            assert!(error.contains(&format!("{bad:?}")) || error.contains("names no host"), "{error}");
        }
    }
}
