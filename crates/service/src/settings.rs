use std::ffi::OsString;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

/// The most milliseconds a setting may say, a day: more is a slip of the finger, and far more overflows the clock.
const MAX_MILLIS: u64 = 24 * 3600 * 1000;

/// Connections of the listener of `METRICS_ADDR`, which only the operator's own programs reach.
const MAX_METRICS_CONNECTIONS: usize = 32;

/// The most that `MAX_BODY_BYTES` may say: lengths in gRPC and in `BYTES` have 32 bits.
const MAX_BODY_BYTES: usize = 2 << 30;

/// A variable whose value cannot be used. Ends the process with [`SettingError::EXIT_CODE`].
#[derive(Debug, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct SettingError {
    /// The variable.
    pub name: String,
    /// What is wrong with its value, and what would be right.
    pub reason: String,
}

impl SettingError {
    /// `EX_USAGE` of sysexits.h: trying again without a change is useless.
    pub const EXIT_CODE: u8 = 64;

    /// An error about the variable `name`.
    pub fn new(name: &str, reason: impl Display) -> Self {
        Self { name: name.to_owned(), reason: reason.to_string() }
    }

    /// Says it on one line and gives the exit code. There is no log yet: its settings may be the bad ones.
    pub fn report(&self) -> ExitCode {
        eprintln!("{self}");
        ExitCode::from(Self::EXIT_CODE)
    }
}

/// The variable `name`; `None` when unset or empty, since Compose passes unset variables on as empty ones.
///
/// What is not UTF-8 in it is replaced, so that it is seen to be wrong and not taken for unset.
pub fn optional(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
}

/// The variable `name`, or `default` when it is unset or empty.
pub fn parse<T>(name: &str, default: T) -> Result<T, SettingError>
where
    T: FromStr<Err: Display>,
{
    match std::env::var_os(name).filter(|value| !value.is_empty()) {
        None => Ok(default),
        Some(value) => parse_value(name, value),
    }
}

fn parse_value<T>(name: &str, value: OsString) -> Result<T, SettingError>
where
    T: FromStr<Err: Display>,
{
    let text =
        value.into_string().map_err(|value| SettingError::new(name, format!("{} is not UTF-8", value.display())))?;
    text.parse().map_err(|error| SettingError::new(name, format!("{text:?}: {error}")))
}

/// A number of at min `least`.
pub fn at_least<T>(name: &str, min: T, default: T) -> Result<T, SettingError>
where
    T: FromStr<Err: Display> + PartialOrd + Display + Copy,
{
    let value = parse(name, default)?;
    if value < min {
        return Err(SettingError::new(name, format!("{value} is less than {min}")));
    }
    Ok(value)
}

/// A number of at min `least` and at most `most`.
pub fn between<T>(name: &str, min: T, max: T, default: T) -> Result<T, SettingError>
where
    T: FromStr<Err: Display> + PartialOrd + Display + Copy,
{
    let value = at_least(name, min, default)?;
    if value > max {
        return Err(SettingError::new(name, format!("{value} is more than {max}")));
    }
    Ok(value)
}

/// A duration given in whole milliseconds: at min one, since none at all would refuse everything, and at most a day.
pub fn millis(name: &str, default: u64) -> Result<Duration, SettingError> {
    between(name, 1, MAX_MILLIS, default).map(Duration::from_millis)
}

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

/// A URL whose user and password, if it has any, are replaced: for logs and errors.
pub fn redact_url(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    match url[start..end].rfind('@') {
        Some(at) => format!("{}***{}", &url[..start], &url[start + at..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Variables that no test sets: the environment belongs to the whole process, and setting it is unsafe.
    #[test]
    fn an_unset_variable_is_its_default() {
        assert_eq!(parse("MLSERVE_TEST_UNSET", 7).unwrap(), 7);
        assert_eq!(optional("MLSERVE_TEST_UNSET"), None);
    }

    #[test]
    fn a_bad_value_is_reported_with_the_name_of_the_variable() {
        let error = parse::<u16>("PATH", 1).unwrap_err();
        assert!(error.to_string().starts_with("PATH: "), "{error}");
        assert_eq!(
            at_least("MLSERVE_TEST_UNSET", 2, 1).unwrap_err().to_string(),
            "MLSERVE_TEST_UNSET: 1 is less than 2"
        );
    }

    #[test]
    fn a_time_is_neither_nothing_nor_more_than_a_day() {
        let reason = |default| millis("MLSERVE_TEST_UNSET", default).unwrap_err().reason;
        assert_eq!(reason(0), "0 is less than 1");
        assert_eq!(reason(u64::MAX), "18446744073709551615 is more than 86400000");
        assert_eq!(millis("MLSERVE_TEST_UNSET", MAX_MILLIS).unwrap(), Duration::from_hours(24));
    }

    #[test]
    fn a_body_is_no_longer_than_its_lengths_can_say() {
        let error = between("MLSERVE_TEST_UNSET", 1024, MAX_BODY_BYTES, 4 << 30).unwrap_err();
        assert_eq!(error.reason, "4294967296 is more than 2147483648");
    }

    #[test]
    fn credentials_in_a_url_are_replaced() {
        for (url, shown) in [
            ("http://user:p@ss@model_api:5050/x@y", "http://***@model_api:5050/x@y"),
            ("redis://:secret@db_api:6379/0", "redis://***@db_api:6379/0"),
            ("user:secret@host", "***@host"),
            ("http://model_api:5050", "http://model_api:5050"),
            ("", ""),
        ] {
            assert_eq!(redact_url(url), shown);
        }
    }

    #[test]
    fn what_is_not_utf_8_is_no_value() {
        use std::os::unix::ffi::OsStringExt;
        let error = parse_value::<String>("NAME", OsString::from_vec(b"a\xff".to_vec())).unwrap_err();
        assert_eq!(error.to_string(), "NAME: a\u{fffd} is not UTF-8");
    }
}
