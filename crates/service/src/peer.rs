//! Client address of a request.

use std::net::{IpAddr, SocketAddr};

/// Address of the client that sent a request: an extension of each request that [`crate::http_server`] receives.
///
/// IPv4-mapped IPv6 addresses are converted to IPv4, so that a client has one address on every socket. Behind a reverse
/// proxy it is the address of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer(pub IpAddr);

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self(address.ip().to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_client_has_the_same_address_on_every_socket() {
        let peer = |address: &str| Peer::from(address.parse::<SocketAddr>().unwrap());
        assert_eq!(peer("[::ffff:192.0.2.1]:1"), peer("192.0.2.1:2"));
        assert_ne!(peer("[::1]:1"), peer("127.0.0.1:1"));
    }
}
