//! Cross-origin protection.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::rejection::Rejection;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Applies the rule of Go's `CrossOriginProtection`. Browsers send `Sec-Fetch-Site` to trustworthy origins, which
/// include loopback, and `Origin` with every unsafe request. Other clients send neither.
pub(super) fn check_origin(
    method: &Method,
    headers: &HeaderMap,
    authority: Option<&str>,
    origins: &[HeaderValue],
) -> Result<(), Rejection> {
    if *method == Method::GET || *method == Method::HEAD || *method == Method::OPTIONS {
        return Ok(());
    }
    let origin = headers.get(header::ORIGIN);
    let is_same_origin = match headers.get(SEC_FETCH_SITE) {
        Some(site) => site == "same-origin" || site == "none",
        None => origin.is_none_or(|origin| origin_host(origin).is_some_and(|host| is_same_host(host, authority))),
    };
    if is_same_origin || origin.is_some_and(|origin| origins.contains(origin)) {
        return Ok(());
    }
    Err(Rejection::cross_origin(origin))
}

fn origin_host(origin: &HeaderValue) -> Option<&str> {
    origin.to_str().ok()?.split_once("://").map(|(_, host)| host)
}

fn is_same_host(host: &str, authority: Option<&str>) -> bool {
    authority.is_some_and(|authority| host.eq_ignore_ascii_case(authority))
}

pub(super) fn is_from_browser(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name == header::ORIGIN || name.as_str().starts_with("sec-fetch-"))
}
