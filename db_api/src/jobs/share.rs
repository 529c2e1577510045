use std::fmt;
use std::net::IpAddr;

/// Whose share of the queue a job counts against: the address of the client that submits it. The default is nobody's: such jobs are
/// bounded together with all others, and by no share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller(String);

/// The state of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueHealth {
    /// Inputs in the queues of all models, those in progress among them.
    pub waiting: u64,
    /// Bytes that jobs hold: inputs, names, results, and what is kept beside them.
    pub bytes: u64,
    /// Bytes that jobs may hold before the next one is refused; 0 where there is no limit.
    pub bytes_limit: u64,
}

/// What a caller would have too much of, and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// What the caller's jobs hold.
    pub held: u64,
    /// What another job would add.
    pub more: u64,
    /// What the caller's jobs may hold at the moment.
    pub most: u64,
    /// `bytes`, or `inputs` that have not ended.
    pub unit: &'static str,
}

impl Caller {
    /// As it stands in Redis; empty for nobody.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// One site has a whole /64 of IPv6.
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

impl Share {
    /// From the words of a refusal: unit, held, more, most.
    pub(super) fn read(words: &str) -> Option<Self> {
        let mut words = words.split_whitespace();
        let unit = if words.next()? == "bytes" { "bytes" } else { "inputs" };
        let mut number = || words.next()?.parse().ok();
        Some(Self { held: number()?, more: number()?, most: number()?, unit })
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { held, more, most, unit } = self;
        write!(
            f,
            "jobs from this address hold {held} {unit}; with this job's {more} they would exceed their share of {most}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_an_ipv4_address_or_a_network_of_ipv6() {
        let caller = |address: &str| Caller::from(address.parse::<IpAddr>().unwrap());
        assert_eq!(caller("192.0.2.1").as_str(), "192.0.2.1");
        assert_eq!(caller("::ffff:192.0.2.1"), caller("192.0.2.1"));
        assert_eq!(caller("2001:db8:1:2:3::4"), caller("2001:db8:1:2:ffff::"));
        assert_ne!(caller("2001:db8:1:2::"), caller("2001:db8:1:3::"));
    }

    #[test]
    fn a_share_is_read_from_the_words_of_a_refusal() {
        let share = Share { held: 1, more: 2, most: 3, unit: "inputs" };
        assert_eq!(Share::read("inputs 1 2 3"), Some(share));
        assert_eq!(Share::read("bytes 1 x 3"), None);
    }
}
