use std::fmt;
use std::net::IpAddr;

/// Client whose quota a job counts against: its address. The default is no client: such jobs count only against the total limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller(String);

/// The state of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueHealth {
    /// Inputs in the queues of all models, including those in progress.
    pub waiting: u64,
    /// Bytes that jobs use: inputs, names, results, and the overhead of each.
    pub bytes: u64,
    /// Bytes that jobs may use before the next job is rejected; 0 means no limit.
    pub bytes_limit: u64,
}

/// A job was rejected because it would exceed its caller's quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaExceeded {
    /// What the caller's jobs use now.
    pub used: u64,
    /// What the new job would add.
    pub requested: u64,
    /// The caller's quota at the moment.
    pub limit: u64,
    /// `bytes`, or `inputs` that are not finished.
    pub unit: &'static str,
}

impl Caller {
    /// The caller as Redis stores it; empty for no caller.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// An IPv6 caller is a /64 network, since one site controls all of its addresses.
impl From<IpAddr> for Caller {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.to_string()),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self(format!("{a:x}:{b:x}:{c:x}:{d:x}::/64"))
            }
        }
    }
}

impl QuotaExceeded {
    /// Parses the text of an error of Redis: unit, used, requested, limit.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let unit = if words.next()? == "bytes" { "bytes" } else { "inputs" };
        let mut number = || words.next()?.parse().ok();
        Some(Self { used: number()?, requested: number()?, limit: number()?, unit })
    }
}

impl fmt::Display for QuotaExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { used, requested, limit, unit } = self;
        write!(
            f,
            "jobs from this address use {used} {unit}; with the {requested} of this job they would exceed their quota of {limit}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_an_ipv4_address_or_an_ipv6_network() {
        let caller = |address: &str| Caller::from(address.parse::<IpAddr>().unwrap());
        assert_eq!(caller("192.0.2.1").as_str(), "192.0.2.1");
        assert_eq!(caller("::ffff:192.0.2.1"), caller("192.0.2.1"));
        assert_eq!(caller("2001:db8:1:2:3::4"), caller("2001:db8:1:2:ffff::"));
        assert_ne!(caller("2001:db8:1:2::"), caller("2001:db8:1:3::"));
    }

    #[test]
    fn a_quota_error_is_parsed_from_the_text_of_redis() {
        let error = QuotaExceeded { used: 1, requested: 2, limit: 3, unit: "inputs" };
        assert_eq!(QuotaExceeded::parse("inputs 1 2 3"), Some(error));
        assert_eq!(QuotaExceeded::parse("bytes 1 x 3"), None);
    }
}
