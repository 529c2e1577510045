//! Request guard: checks that every request passes before it reaches its route.

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

/// Validates `Host` (RFC 9112 §3.2, DNS rebinding) and rejects requests that pages of other origins send through a
/// visitor's browser.
///
/// The default is an unpublished public service without names of its own.
#[derive(Clone, Debug)]
pub struct RequestGuard {
    hosts: HostPolicy,
    browsers: BrowserPolicy,
}

/// Accepted values of `Host`.
#[derive(Clone, Debug)]
enum HostPolicy {
    /// Any: the service is published, and only the operator's DNS knows its names.
    Any,
    /// Loopback names, IP addresses, and these names in lower case.
    Local(Arc<[String]>),
}

/// Accepted requests of browsers.
#[derive(Clone, Debug)]
enum BrowserPolicy {
    /// Safe methods from any origin. Other methods only from the service's own pages or from these origins.
    AllowOrigins(Arc<[HeaderValue]>),
    /// No requests of browsers.
    Reject,
}

impl Default for RequestGuard {
    fn default() -> Self {
        Self::public(false, Vec::new(), Vec::new())
    }
}

impl RequestGuard {
    /// Guard of a service that browsers use. `hosts` are further names in lower case, ignored if it `is_published`.
    /// Pages of `origins` have the rights of the service's own pages.
    pub fn public(is_published: bool, hosts: Vec<String>, origins: Vec<HeaderValue>) -> Self {
        let hosts = if is_published { HostPolicy::Any } else { HostPolicy::Local(hosts.into()) };
        Self { hosts, browsers: BrowserPolicy::AllowOrigins(origins.into()) }
    }

    /// Guard of a service that only other services use. `Host` is checked only on a loopback address: in a network, the
    /// name depends on its DNS.
    pub fn private(host: IpAddr, hosts: Vec<String>) -> Self {
        let hosts = if host.is_loopback() { HostPolicy::Local(hosts.into()) } else { HostPolicy::Any };
        Self { hosts, browsers: BrowserPolicy::Reject }
    }

    /// Same as [`RequestGuard::private`], with the names of `ALLOWED_HOSTS`.
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
