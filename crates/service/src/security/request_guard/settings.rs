use std::net::{AddrParseError, IpAddr};
use std::str::FromStr;

use http::HeaderValue;

use super::host::{is_authority_byte, without_port};
use crate::settings::{SettingError, optional};

/// An address, of IPv6 also in brackets, as Compose wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindAddress(pub IpAddr);

impl FromStr for BindAddress {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text).parse().map(Self)
    }
}

/// `ALLOWED_HOSTS`: names in small letters, for [`RequestGuard::public`].
pub fn allowed_hosts() -> Result<Vec<String>, SettingError> {
    let text = optional("ALLOWED_HOSTS").unwrap_or_default();
    parse_list(&text, parse_host_name).map_err(|reason| SettingError::new("ALLOWED_HOSTS", reason))
}

/// Comma-separated origins, for [`RequestGuard::public`].
///
/// # Errors
/// Words that name the entry which is none.
pub fn parse_origins(text: &str) -> Result<Vec<HeaderValue>, String> {
    parse_list(text, parse_origin)
}

pub(super) fn parse_list<T>(text: &str, read: fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(read).collect()
}

pub(super) fn parse_host_name(entry: &str) -> Result<String, String> {
    let name = without_port(entry);
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        return Err(format!("{entry:?} is not the name of a host, such as models.example.org"));
    }
    Ok(name.to_ascii_lowercase())
}

pub(super) fn parse_origin(entry: &str) -> Result<HeaderValue, String> {
    let error = || {
        format!("{entry:?} is not an origin as browsers send it, such as https://app.example or http://localhost:3000")
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
