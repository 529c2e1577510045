//! Settings of the request guard.

use std::net::{AddrParseError, IpAddr};
use std::str::FromStr;

use http::HeaderValue;

use super::host::{is_authority_byte, without_port};
use crate::settings::{SettingError, optional};

/// IP address. IPv6 may be in brackets, as in Compose files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindAddress(pub IpAddr);

impl FromStr for BindAddress {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text).parse().map(Self)
    }
}

/// Reads `ALLOWED_HOSTS`: names in lower case, for [`RequestGuard::public`](super::RequestGuard::public).
pub fn allowed_hosts() -> Result<Vec<String>, SettingError> {
    let text = optional("ALLOWED_HOSTS").unwrap_or_default();
    parse_list(&text, parse_host_name).map_err(|reason| SettingError::new("ALLOWED_HOSTS", reason))
}

/// Parses comma-separated origins, for [`RequestGuard::public`](super::RequestGuard::public).
///
/// # Errors
///
/// Text that names the invalid entry.
pub fn parse_origins(text: &str) -> Result<Vec<HeaderValue>, String> {
    parse_list(text, parse_origin)
}

pub(super) fn parse_list<T>(text: &str, parse_entry: fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(parse_entry).collect()
}

pub(super) fn parse_host_name(entry: &str) -> Result<String, String> {
    let name = without_port(entry);
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        return Err(format!("{entry:?} is not a host name such as models.example.org"));
    }
    Ok(name.to_ascii_lowercase())
}

pub(super) fn parse_origin(entry: &str) -> Result<HeaderValue, String> {
    let error = || {
        format!(
            "{entry:?} is not an origin as browsers send it; use one such as https://app.example or http://localhost:3000"
        )
    };
    let (scheme, host) = entry.split_once("://").ok_or_else(error)?;
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let is_origin = !scheme.is_empty()
        && !host.is_empty()
        && host.bytes().all(|byte| is_authority_byte(byte) && byte != b'*')
        && (default_port.is_empty() || !host.ends_with(default_port));
    if !is_origin {
        return Err(error());
    }
    HeaderValue::from_str(&entry.to_ascii_lowercase()).map_err(|_| error())
}
