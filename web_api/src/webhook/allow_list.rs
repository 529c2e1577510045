//! Allow list for webhooks: hosts, ports and addresses that may be reached.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use http::Uri;
use reqwest::Url;

use super::network::{Network, embedded_ipv4, is_global, parse_address};

/// Maximum length of a webhook's URL in bytes.
const MAX_URL_LENGTH: usize = 2048;

/// Ports that an entry without a port allows. Other ports belong to other programs on the host.
const DEFAULT_PORTS: [u16; 2] = [80, 443];

/// Hosts and ports that webhooks may name, and addresses that they may reach.
#[derive(Clone, Debug)]
pub struct AllowList {
    hosts: Arc<[(Host, Option<u16>)]>,
    networks: Arc<[(Network, Option<u16>)]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// `example.org`
    Exact(String),
    /// `*.example.org`, without the asterisk.
    Suffix(String),
}

/// Reason why a webhook is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWebhook {
    /// Not a URL.
    #[error("it is not a complete URL")]
    InvalidUrl,
    /// Longer than [`MAX_URL_LENGTH`].
    #[error("its URL has more than {MAX_URL_LENGTH} characters")]
    TooLong,
    /// `file:`, `ftp:`, …
    #[error("its URL begins with neither http:// nor https://")]
    UnsupportedScheme,
    /// `user:password@`.
    #[error("its URL contains credentials; webhooks are signed instead")]
    Credentials,
    /// A host that is not allowed.
    #[error("WEBHOOK_ALLOW does not name its host {0:?}")]
    HostNotAllowed(String),
    /// A host that is allowed with other ports only.
    #[error(
        "WEBHOOK_ALLOW names its host, but not with port {1}: an entry without a port allows 80 and 443, {0}:{1} allows this one"
    )]
    PortNotAllowed(String, u16),
}

impl AllowList {
    /// Parses a URL and checks its host and port. The addresses of the host are checked by [`AllowList::permits`] on connection.
    pub fn check(&self, text: &str) -> Result<Url, InvalidWebhook> {
        if text.len() > MAX_URL_LENGTH {
            return Err(InvalidWebhook::TooLong);
        }
        let url = Url::parse(text).map_err(|_| InvalidWebhook::InvalidUrl)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(InvalidWebhook::UnsupportedScheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidWebhook::Credentials);
        }
        if url.as_str().parse::<Uri>().is_err() {
            return Err(InvalidWebhook::InvalidUrl);
        }
        // The parser has normalised addresses such as `0x7f.1`.
        let host = url.host_str().ok_or(InvalidWebhook::InvalidUrl)?;
        let port = url.port_or_known_default().ok_or(InvalidWebhook::InvalidUrl)?;
        let ports: Vec<Option<u16>> = self.ports(host).collect();
        if ports.is_empty() {
            return Err(InvalidWebhook::HostNotAllowed(host.to_owned()));
        }
        let is_allowed =
            ports.iter().any(|allowed| allowed.map_or(DEFAULT_PORTS.contains(&port), |allowed| allowed == port));
        if is_allowed { Ok(url) } else { Err(InvalidWebhook::PortNotAllowed(host.to_owned(), port)) }
    }

    /// The ports of all entries that match the host.
    fn ports(&self, host: &str) -> impl Iterator<Item = Option<u16>> {
        let address = parse_address(host).map(embedded_ipv4);
        let host = host.strip_suffix('.').unwrap_or(host);
        let names = self.hosts.iter().filter(move |(entry, _)| address.is_none() && entry.matches(host));
        let networks = self.networks.iter().filter(move |(network, _)| address.is_some_and(|at| network.contains(at)));
        names.map(|(_, port)| *port).chain(networks.map(|(_, port)| *port))
    }

    /// Whether connections to an address are allowed: it is on the Internet, or in an allowed network. The port has been checked together
    /// with the host.
    pub fn permits(&self, address: IpAddr) -> bool {
        is_global(embedded_ipv4(address)) || self.contains(address)
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|(network, _)| network.contains(embedded_ipv4(address)))
    }
}

/// Parses comma-separated entries.
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
            let (host, port) = split_port(entry).ok_or_else(error)?;
            match Network::parse(host) {
                Some(network) => networks.push((network, port)),
                None => hosts.push((Host::parse(host).ok_or_else(error)?, port)),
            }
        }
        if hosts.is_empty() && networks.is_empty() {
            return Err(format!("{text:?} names no host"));
        }
        Ok(Self { hosts: hosts.into(), networks: networks.into() })
    }
}

/// Splits an entry into host and port. An IPv6 address or network with a port is in brackets.
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
    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => host == name,
            Self::Suffix(end) => host.len() > end.len() && host.ends_with(end.as_str()),
        }
    }

    fn parse(entry: &str) -> Option<Self> {
        let (name, is_end) = entry.strip_prefix("*.").map_or((entry, false), |end| (end, true));
        if !name.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_')) {
            return None;
        }
        // Normalised as the host of a URL: lower case and Punycode.
        let url = Url::parse(&format!("http://{name}/")).ok()?;
        let name = url.host_str().filter(|name| parse_address(name).is_none())?.trim_end_matches('.');
        Some(if is_end { Self::Suffix(format!(".{name}")) } else { Self::Exact(name.to_owned()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> AllowList {
        text.parse().unwrap()
    }

    #[test]
    fn only_addresses_on_the_internet_are_permitted() {
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
    fn addresses_in_an_allowed_network_are_permitted() {
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
    fn the_host_of_a_webhook_must_be_allowed() {
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
            assert!(matches!(list.check(url), Err(InvalidWebhook::HostNotAllowed(_))), "{url} {:?}", list.check(url));
        }
        let tables = [
            ("hooks.example.org/x", InvalidWebhook::InvalidUrl),
            ("", InvalidWebhook::InvalidUrl),
            ("http://", InvalidWebhook::InvalidUrl),
            ("ftp://hooks.example.org", InvalidWebhook::UnsupportedScheme),
            ("file:///etc/passwd", InvalidWebhook::UnsupportedScheme),
            ("gopher://127.0.0.1", InvalidWebhook::UnsupportedScheme),
            ("http://user@hooks.example.org", InvalidWebhook::Credentials),
            ("http://:pass@hooks.example.org", InvalidWebhook::Credentials),
            ("http://hooks.example.org@10.0.0.1/", InvalidWebhook::Credentials),
        ];
        for (url, error) in tables {
            assert_eq!(list.check(url).unwrap_err(), error, "{url}");
        }
        assert_eq!(list.check(&format!("http://a.example.com/{}", "x".repeat(2048))), Err(InvalidWebhook::TooLong));
    }

    #[test]
    fn an_entry_allows_its_port_or_80_and_443() {
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
            assert!(matches!(list.check(url), Err(InvalidWebhook::PortNotAllowed(..))), "{url} {:?}", list.check(url));
        }
        let error = list.check("http://hooks.example.org:6379").unwrap_err().to_string();
        assert!(error.contains("hooks.example.org:6379") && error.contains("80 and 443"), "{error}");
    }

    #[test]
    fn an_invalid_entry_is_named_in_the_error() {
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
