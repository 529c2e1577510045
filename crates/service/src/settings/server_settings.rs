//! Settings of the HTTP server, the same for every service.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::env::{MAX_MILLIS, at_least, between, millis, optional, parse};
use super::error::SettingError;

/// Connection limit of the `METRICS_ADDR` listener, which only the operator's programs reach.
const MAX_METRICS_CONNECTIONS: usize = 32;

/// Upper bound of `MAX_BODY_BYTES`: gRPC and `BYTES` elements have 32-bit lengths.
const MAX_BODY_BYTES: usize = 2 << 30;

/// Addresses, timeouts and limits of the HTTP server.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// `HOST`, `PORT`: address of the service.
    pub address: SocketAddr,
    /// `METRICS_ADDR`: address of `/metrics`, which is never published.
    pub metrics_address: SocketAddr,
    /// `MAX_CONNECTIONS`: a new connection beyond the limit replaces an idle one. If all are busy, it gets 503 and is
    /// closed.
    pub max_connections: usize,
    /// `HEADER_TIMEOUT_MS`: timeout of a request header, from its first byte or from the start of the connection.
    pub header_timeout: Duration,
    /// `IDLE_TIMEOUT_MS`: timeout of a connection without a request.
    pub idle_timeout: Duration,
    /// `BODY_TIMEOUT_MS`: timeout of a request body, and of each write of a response.
    pub body_timeout: Duration,
    /// `MAX_BODY_BYTES`: size limit of one request body.
    pub max_body_bytes: usize,
    /// `BODY_MEMORY_BYTES`: memory budget of all request bodies and of data derived from them, by capacity. At least
    /// twice `MAX_BODY_BYTES`.
    pub body_memory_bytes: usize,
    /// `LAME_DUCK_MS`: time after SIGTERM during which the service is unready but still accepts connections, so that
    /// load balancers can remove it. May be 0.
    pub lame_duck: Duration,
    /// `DRAIN_TIMEOUT_MS`: time after the lame-duck period for requests in flight to finish.
    pub drain_timeout: Duration,
}

impl ServerSettings {
    /// Reads the variables that the fields name.
    pub fn from_env(port: u16, metrics_port: u16) -> Result<Self, SettingError> {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let max_body_bytes = between("MAX_BODY_BYTES", 1024, MAX_BODY_BYTES, 64 << 20)?;
        let body_memory_bytes = at_least("BODY_MEMORY_BYTES", 1024, 256 << 20)?;
        // One client gets four fifths of the budget, and a growing buffer takes 1.5 times the length of its body.
        if body_memory_bytes / 2 < max_body_bytes {
            let reason = format!(
                "{body_memory_bytes} is less than twice MAX_BODY_BYTES ({max_body_bytes}); raise it, or lower MAX_BODY_BYTES"
            );
            return Err(SettingError::new("BODY_MEMORY_BYTES", reason));
        }
        Ok(Self {
            address: SocketAddr::new(parse("HOST", loopback)?, parse("PORT", port)?),
            metrics_address: parse("METRICS_ADDR", SocketAddr::new(loopback, metrics_port))?,
            max_connections: at_least("MAX_CONNECTIONS", 1, 1024)?,
            header_timeout: millis("HEADER_TIMEOUT_MS", 10_000)?,
            idle_timeout: millis("IDLE_TIMEOUT_MS", 75_000)?,
            body_timeout: millis("BODY_TIMEOUT_MS", 30_000)?,
            max_body_bytes,
            body_memory_bytes,
            lame_duck: Duration::from_millis(between("LAME_DUCK_MS", 0, MAX_MILLIS, 500)?),
            drain_timeout: millis("DRAIN_TIMEOUT_MS", 20_000)?,
        })
    }

    /// Settings of the listener on [`ServerSettings::metrics_address`].
    #[must_use]
    pub fn metrics(&self) -> Self {
        Self { max_connections: MAX_METRICS_CONNECTIONS, ..self.clone() }
    }

    /// Address at which the subcommand `health` connects: `METRICS_ADDR` if it is set, since clients cannot exhaust its
    /// connections; otherwise `HOST` and `PORT`.
    pub fn health_address(&self) -> SocketAddr {
        optional("METRICS_ADDR").map_or(self.address, |_| self.metrics_address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_body_bytes_fits_a_32_bit_length() {
        let error = between("MLSERVE_TEST_UNSET", 1024, MAX_BODY_BYTES, 4 << 30).unwrap_err();
        assert_eq!(error.reason, "4294967296 is more than 2147483648");
    }
}
