use std::ffi::OsString;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use super::error::SettingError;

/// The most milliseconds a setting may say, a day: more is a slip of the finger, and far more overflows the clock.
pub(super) const MAX_MILLIS: u64 = 24 * 3600 * 1000;

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
