mod host;
mod origin;
mod rejection;
mod settings;

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::Request;
use http::HeaderValue;

pub use settings::{BindAddress, allowed_hosts, parse_origins};

use host::{authority, is_local, without_port};
use origin::{check_origin, is_from_browser};
use rejection::Rejection;

use crate::settings::SettingError;

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

#[cfg(test)]
mod tests;
