use std::net::{AddrParseError, IpAddr};
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};

use crate::grpc_status;
use crate::peer::Peer;
use crate::problem::problem;
use crate::settings::{SettingError, optional};

/// Characters of a client's header that an error repeats.
const MAX_QUOTED_BYTES: usize = 64;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Checks that every request passes before its route sees it: `Host` (RFC 9112 §3.2, DNS rebinding) and whether a page of another
/// origin sent it through a visitor's browser.
///
/// The default is a public service that is not published, under no names of its own.
#[derive(Clone, Debug)]
pub struct RequestGuard {
    hosts: HostPolicy,
    browsers: BrowserPolicy,
}

/// Names in `Host` that are accepted.
#[derive(Clone, Debug)]
enum HostPolicy {
    /// All: the service is published, and only the operator's DNS knows its names.
    Any,
    /// Loopback names, IP addresses, and these, in small letters.
    Local(Arc<[String]>),
}

/// Requests of browsers that are accepted.
#[derive(Clone, Debug)]
enum BrowserPolicy {
    /// Those that read; and those that change something if they come from the service's own pages or from one of these origins.
    AllowOrigins(Arc<[HeaderValue]>),
    /// None.
    Reject,
}

impl Default for RequestGuard {
    fn default() -> Self {
        Self::public(false, Vec::new(), Vec::new())
    }
}

impl RequestGuard {
    /// Of a service that browsers reach. `hosts` are further names in small letters, and do not count where it `is_published`; pages
    /// of `origins` may do whatever the service's own pages may.
    pub fn public(is_published: bool, hosts: Vec<String>, origins: Vec<HeaderValue>) -> Self {
        let hosts = if is_published { HostPolicy::Any } else { HostPolicy::Local(hosts.into()) };
        Self { hosts, browsers: BrowserPolicy::AllowOrigins(origins.into()) }
    }

    /// Of a service that only other services reach. `Host` is checked where it listens on a loopback address: elsewhere, its name is
    /// whatever the network calls it.
    pub fn private(host: IpAddr, hosts: Vec<String>) -> Self {
        let hosts = if host.is_loopback() { HostPolicy::Local(hosts.into()) } else { HostPolicy::Any };
        Self { hosts, browsers: BrowserPolicy::Reject }
    }

    /// [`RequestGuard::private`] with the names of `ALLOWED_HOSTS`.
    pub fn private_from_env(host: IpAddr) -> Result<Self, SettingError> {
        Ok(Self::private(host, allowed_hosts()?))
    }

    /// Origins whose pages may use the service.
    pub fn origins(&self) -> &[HeaderValue] {
        match &self.browsers {
            BrowserPolicy::AllowOrigins(origins) => origins,
            BrowserPolicy::Reject => &[],
        }
    }

    pub(crate) fn check(&self, request: &Request) -> Result<(), Rejection> {
        let authority = authority(request)?;
        if let (HostPolicy::Local(names), Some(authority)) = (&self.hosts, authority)
            && !is_local(without_port(authority), names)
        {
            return Err(Rejection::unknown_host(authority));
        }
        match &self.browsers {
            BrowserPolicy::AllowOrigins(origins) => {
                check_origin(request.method(), request.headers(), authority, origins)
            }
            BrowserPolicy::Reject if is_from_browser(request.headers()) => Err(Rejection::browser()),
            BrowserPolicy::Reject => Ok(()),
        }
    }
}

/// The one name by which the request calls the service, with its port. HTTP/1.0 needs none.
fn authority(request: &Request) -> Result<Option<&str>, Rejection> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Rejection::bad_host("The request has several Host headers; HTTP allows one"));
    }
    // A request without a peer did not come over a connection.
    if host.is_none() && request.version() == Version::HTTP_11 && request.extensions().get::<Peer>().is_some() {
        return Err(Rejection::bad_host("The request has no Host header; HTTP/1.1 requires one"));
    }
    let host = match host {
        Some(host) if !host.as_bytes().iter().all(|byte| is_authority_byte(*byte)) => {
            return Err(Rejection::bad_host("The Host header is not a host with an optional port"));
        }
        host => host.and_then(|host| host.to_str().ok()),
    };
    // `:authority` of HTTP/2, and the absolute form of HTTP/1.1, which goes before `Host`.
    let target = request.uri().authority().map(|target| target.as_str().rsplit('@').next().unwrap_or_default());
    Ok(target.or(host))
}

/// What RFC 3986 allows in a host and its port.
fn is_authority_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(&byte)
}

/// Without its port.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        // Any other colon belongs to an IPv6 address.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    }
}

fn is_local(name: &str, names: &[String]) -> bool {
    if name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name).parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_loopback = name.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("localhost"));
    is_loopback || names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// The rule of Go's `CrossOriginProtection`. BrowserPolicy send `Sec-Fetch-Site` to what is potentially trustworthy, loopback among it, and
/// `Origin` with every request that changes something. Other clients send neither.
fn check_origin(
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

fn is_from_browser(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name == header::ORIGIN || name.as_str().starts_with("sec-fetch-"))
}

/// Why a request does not reach its route.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    status: StatusCode,
    detail: String,
}

impl Rejection {
    fn bad_host(detail: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, detail: format!("{detail} (RFC 9112, section 3.2).") }
    }

    fn unknown_host(authority: &str) -> Self {
        let detail = format!(
            "The host \"{}\" is not a name of this server; use localhost or an IP address, or add the name to ALLOWED_HOSTS.",
            quoted(authority.as_bytes())
        );
        Self { status: StatusCode::MISDIRECTED_REQUEST, detail }
    }

    fn cross_origin(origin: Option<&HeaderValue>) -> Self {
        let from = origin.map_or("another origin".to_owned(), |origin| format!("\"{}\"", quoted(origin.as_bytes())));
        let detail =
            format!("A page of {from} may not send this request; CORS_ALLOW_ORIGINS does not name its origin.");
        Self { status: StatusCode::FORBIDDEN, detail }
    }

    fn browser() -> Self {
        let detail =
            "This service does not answer browsers; a request with Origin or Sec-Fetch headers must go to web_api.";
        Self { status: StatusCode::FORBIDDEN, detail: detail.to_owned() }
    }

    /// In the form that clients of the path understand.
    pub fn respond(self, path: &str, is_grpc: bool) -> Response {
        let Self { status, detail } = self;
        if is_grpc {
            return grpc_status::reject(status, &detail);
        }
        if path == "/v2" || path.starts_with("/v2/") {
            return (status, axum::Json(serde_json::json!({ "error": detail }))).into_response();
        }
        problem(status, &detail)
    }
}

fn quoted(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(MAX_QUOTED_BYTES)];
    format!("{}{}", cut.escape_ascii(), if cut.len() < bytes.len() { "..." } else { "" })
}

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

fn parse_list<T>(text: &str, read: fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(read).collect()
}

fn parse_host_name(entry: &str) -> Result<String, String> {
    let name = without_port(entry);
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        return Err(format!("{entry:?} is not the name of a host, such as models.example.org"));
    }
    Ok(name.to_ascii_lowercase())
}

fn parse_origin(entry: &str) -> Result<HeaderValue, String> {
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

#[cfg(test)]
mod tests;
