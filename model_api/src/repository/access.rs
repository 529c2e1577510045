//! Access control for requests that load and unload models.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode};
use open_inference::Error;
use service::shared_secret::SharedSecret;

/// Policy for requests that load and unload models.
#[derive(Clone, Debug)]
pub enum RepositoryAccess {
    /// Requests with the shared secret are allowed.
    Secret(SharedSecret),
    /// All requests are allowed: only local programs reach a loopback address.
    Loopback,
    /// No request is allowed.
    Closed,
}

impl RepositoryAccess {
    /// The policy of a service that listens on `host`.
    pub fn new(secret: Option<SharedSecret>, host: IpAddr) -> Self {
        match secret {
            Some(secret) => Self::Secret(secret),
            None if host.is_loopback() => Self::Loopback,
            None => Self::Closed,
        }
    }

    /// # Errors
    /// 403 if the headers do not allow the request.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Error> {
        let reason = match self {
            Self::Loopback => return Ok(()),
            Self::Secret(secret) if secret.matches(headers) => return Ok(()),
            Self::Secret(_) => "the request does not carry the MODEL_API_SECRET of this service",
            Self::Closed => "MODEL_API_SECRET is not set, and this service does not listen on loopback alone",
        };
        let remedy = "set the same MODEL_API_SECRET for web_api and model_api, and send the request to web_api";
        Err(Error::new(
            StatusCode::FORBIDDEN,
            format!("This request may not load or unload models: {reason}; {remedy}."),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_model_is_loaded_with_the_secret_or_from_loopback() {
        let secret = || SharedSecret::new("0123456789abcdef").unwrap();
        let (nothing, sent) = (HeaderMap::new(), HeaderMap::from_iter([secret().header()]));
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let all = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        assert!(RepositoryAccess::new(None, loopback).check(&nothing).is_ok());
        for (access, headers, is_allowed) in [
            (RepositoryAccess::new(None, all), &sent, false),
            (RepositoryAccess::new(Some(secret()), all), &sent, true),
            (RepositoryAccess::new(Some(secret()), all), &nothing, false),
            (RepositoryAccess::new(Some(secret()), loopback), &nothing, false),
        ] {
            match access.check(headers) {
                Ok(()) => assert!(is_allowed, "{access:?}"),
                Err(error) => {
                    assert!(!is_allowed && error.message.contains("MODEL_API_SECRET"), "{access:?} {error}");
                    assert_eq!(error.status, StatusCode::FORBIDDEN);
                }
            }
        }
    }
}
