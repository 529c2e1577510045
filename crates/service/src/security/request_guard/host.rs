//! Validation of `Host` (RFC 9112 §3.2, DNS rebinding).

use std::net::IpAddr;

use axum::extract::Request;
use http::{Version, header};

use super::rejection::Rejection;
use crate::peer::Peer;

/// Authority of the request: host with an optional port. HTTP/1.0 requires none.
pub(super) fn authority(request: &Request) -> Result<Option<&str>, Rejection> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Rejection::bad_host("The request has several Host headers; HTTP allows one"));
    }
    // A request without a peer did not arrive over a connection.
    if host.is_none() && request.version() == Version::HTTP_11 && request.extensions().get::<Peer>().is_some() {
        return Err(Rejection::bad_host("The request has no Host header; HTTP/1.1 requires one"));
    }
    let host = match host {
        Some(host) if !host.as_bytes().iter().all(|byte| is_authority_byte(*byte)) => {
            return Err(Rejection::bad_host("The Host header is not a host with an optional port"));
        }
        host => host.and_then(|host| host.to_str().ok()),
    };
    // `:authority` of HTTP/2 and the absolute form of HTTP/1.1 take precedence over `Host`.
    let target = request.uri().authority().map(|target| target.as_str().rsplit('@').next().unwrap_or_default());
    Ok(target.or(host))
}

/// Whether RFC 3986 allows the byte in a host and port.
pub(super) fn is_authority_byte(byte: u8) -> bool {
    // Each request checks each byte of its `Host`.
    const ALLOWED: [bool; 256] = {
        let punctuation = b"-._~!$&'()*+,;=:[]%";
        let mut allowed = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            allowed[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let mut index = 0;
        while index < punctuation.len() {
            allowed[punctuation[index] as usize] = true;
            index += 1;
        }
        allowed
    };
    ALLOWED[usize::from(byte)]
}

/// Host of an authority.
pub(super) fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        // Other colons belong to an IPv6 address.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    }
}

pub(super) fn is_local(name: &str, names: &[String]) -> bool {
    if name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name).parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_loopback = name.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("localhost"));
    is_loopback || names.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
}
