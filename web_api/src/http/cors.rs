use std::time::Duration;

use axum::Router;
use http::{HeaderName, HeaderValue, Method, Response, header};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tower_http::set_header::SetResponseHeaderLayer;

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// `Access-Control-Max-Age`: time for which a browser may cache a preflight response.
const MAX_AGE: Duration = Duration::from_mins(10);

/// `Access-Control-Expose-Headers`: response headers that scripts may read, in addition to the CORS-safelisted ones.
const EXPOSED_HEADERS: [HeaderName; 9] = [
    header::AGE,
    header::CONTENT_DISPOSITION,
    header::ETAG,
    header::LOCATION,
    header::RETRY_AFTER,
    HeaderName::from_static("cache-status"),
    HeaderName::from_static("inference-header-content-length"),
    HeaderName::from_static("preference-applied"),
    HeaderName::from_static("x-request-id"),
];

/// Adds CORS for pages of `origins`. Returns `routes` without any layer where there are no origins.
pub fn allow(routes: Router, origins: &[HeaderValue]) -> Router {
    if origins.is_empty() {
        return routes;
    }
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().cloned()))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED_HEADERS)
        // Browsers with private network access checks require it for a public page that calls a private address.
        .allow_private_network(true)
        .max_age(MAX_AGE);
    // Without this header, the default of `security_headers` is `same-origin`.
    let policy = SetResponseHeaderLayer::if_not_present(CROSS_ORIGIN_RESOURCE_POLICY, resource_policy);
    routes.layer(cors).layer(policy)
}

fn resource_policy<B>(response: &Response<B>) -> Option<HeaderValue> {
    let is_allowed = response.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN);
    is_allowed.then(|| HeaderValue::from_static("cross-origin"))
}
