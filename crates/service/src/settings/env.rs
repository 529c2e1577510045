//! Parses environment variables. An empty variable counts as unset, since Compose passes unset variables as empty ones.

use std::ffi::OsString;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use super::error::SettingError;

/// Upper bound of durations: one day. A longer one is a typing error, and much longer ones overflow the clock.
pub(super) const MAX_MILLIS: u64 = 24 * 3600 * 1000;

/// Value of the variable `name`, or `None` if it is unset or empty.
///
/// Invalid UTF-8 is replaced, so that a wrong value fails validation instead of counting as unset.
pub fn optional(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
}

/// Parses the variable `name`. Returns `default` if it is unset or empty.
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

/// Parses a number that is at least `min`.
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

/// Parses a number from `min` to `max`, both inclusive.
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

/// Parses a duration in whole milliseconds, from 1 ms to one day. 0 would time out every request.
pub fn millis(name: &str, default: u64) -> Result<Duration, SettingError> {
    between(name, 1, MAX_MILLIS, default).map(Duration::from_millis)
}

/// Replaces the user and password of a URL, for logs and errors.
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

    // Tests read only variables that no test sets: the environment is shared by the process, and setting it is unsafe.
    #[test]
    fn unset_variable_yields_its_default() {
        assert_eq!(parse("MLSERVE_TEST_UNSET", 7).unwrap(), 7);
        assert_eq!(optional("MLSERVE_TEST_UNSET"), None);
    }

    #[test]
    fn error_of_a_bad_value_names_the_variable() {
        let error = parse::<u16>("PATH", 1).unwrap_err();
        assert!(error.to_string().starts_with("PATH: "), "{error}");
        assert_eq!(
            at_least("MLSERVE_TEST_UNSET", 2, 1).unwrap_err().to_string(),
            "MLSERVE_TEST_UNSET: 1 is less than 2"
        );
    }

    #[test]
    fn duration_is_between_a_millisecond_and_a_day() {
        let reason = |default| millis("MLSERVE_TEST_UNSET", default).unwrap_err().reason;
        assert_eq!(reason(0), "0 is less than 1");
        assert_eq!(reason(u64::MAX), "18446744073709551615 is more than 86400000");
        assert_eq!(millis("MLSERVE_TEST_UNSET", MAX_MILLIS).unwrap(), Duration::from_hours(24));
    }

    #[test]
    fn credentials_in_a_url_are_redacted() {
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
    fn value_that_is_not_utf_8_is_rejected() {
        use std::os::unix::ffi::OsStringExt;
        let error = parse_value::<String>("NAME", OsString::from_vec(b"a\xff".to_vec())).unwrap_err();
        assert_eq!(error.to_string(), "NAME: a\u{fffd} is not UTF-8");
    }
}
