use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::env::{MAX_MILLIS, at_least, between, millis, optional, parse};
use super::error::SettingError;

/// Connections of the listener of `METRICS_ADDR`, which only the operator's own programs reach.
const MAX_METRICS_CONNECTIONS: usize = 32;

/// The most that `MAX_BODY_BYTES` may say: lengths in gRPC and in `BYTES` have 32 bits.
const MAX_BODY_BYTES: usize = 2 << 30;

/// Where and how a service listens: the same for every service.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// `HOST`, `PORT`: the address of the service itself.
    pub address: SocketAddr,
    /// `METRICS_ADDR`: the address of `/metrics`, never published.
    pub metrics_address: SocketAddr,
    /// `MAX_CONNECTIONS`: one more takes the place of an idle one, and is answered 503 and closed where all are busy.
    pub max_connections: usize,
    /// `HEADER_TIMEOUT_MS`: a request's header must have arrived by then, counted from its first byte, or from the start of
    /// the connection.
    pub header_timeout: Duration,
    /// `IDLE_TIMEOUT_MS`: a connection without a request is closed after this time.
    pub idle_timeout: Duration,
    /// `BODY_TIMEOUT_MS`: a request's body must have come by then, and each piece of an answer must have gone.
    pub body_timeout: Duration,
    /// `MAX_BODY_BYTES`: of one request's body.
    pub max_body_bytes: usize,
    /// `BODY_MEMORY_BYTES`: of all bodies, and what is made of them, at the same time, by capacity; at min twice
    /// `MAX_BODY_BYTES`.
    pub body_memory_bytes: usize,
    /// `LAME_DUCK_MS`: after SIGTERM, unready but still accepting, so that balancers can look away. May be 0.
    pub lame_duck: Duration,
    /// `DRAIN_TIMEOUT_MS`: after the lame duck, what was begun may finish for so long.
    pub drain_timeout: Duration,
}

impl ServerSettings {
    /// Reads the variables named at the fields.
    pub fn from_env(port: u16, metrics_port: u16) -> Result<Self, SettingError> {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let max_body_bytes = between("MAX_BODY_BYTES", 1024, MAX_BODY_BYTES, 64 << 20)?;
        let body_memory_bytes = at_least("BODY_MEMORY_BYTES", 1024, 256 << 20)?;
        // One client gets four fifths, and a body has one and a half times its length while its buffer grows.
        if body_memory_bytes / 2 < max_body_bytes {
            let reason = format!(
                "{body_memory_bytes} is less than twice MAX_BODY_BYTES ({max_body_bytes}): no such body could come"
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

    /// Those of the listener of [`ServerSettings::metrics_address`].
    #[must_use]
    pub fn metrics(&self) -> Self {
        Self { max_connections: MAX_METRICS_CONNECTIONS, ..self.clone() }
    }

    /// Where the subcommand `health` finds the service: at `METRICS_ADDR` where that is set, whose places clients cannot take, else at
    /// `HOST` and `PORT`.
    pub fn health_address(&self) -> SocketAddr {
        optional("METRICS_ADDR").map_or(self.address, |_| self.metrics_address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_no_longer_than_its_lengths_can_say() {
        let error = between("MLSERVE_TEST_UNSET", 1024, MAX_BODY_BYTES, 4 << 30).unwrap_err();
        assert_eq!(error.reason, "4294967296 is more than 2147483648");
    }
}
