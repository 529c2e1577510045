use std::time::Duration;

use axum::Router;
use http::{HeaderName, HeaderValue, Method, Response, header};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tower_http::set_header::SetResponseHeaderLayer;

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Time for which a browser may keep what a preflight allowed.
const MAX_AGE: Duration = Duration::from_mins(10);

/// Response headers that scripts may read, beside those that browsers always let them read.
const EXPOSED: [HeaderName; 9] = [
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

/// CORS for pages of `origins`. Without any, the routes are as they were and cost nothing more.
pub fn allow(routes: Router, origins: &[HeaderValue]) -> Router {
    if origins.is_empty() {
        return routes;
    }
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().cloned()))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED)
        // A public page may reach a server in a private network, where the browser asks for that.
        .allow_private_network(true)
        .max_age(MAX_AGE);
    // Every other response says `same-origin`.
    let policy = SetResponseHeaderLayer::if_not_present(CROSS_ORIGIN_RESOURCE_POLICY, policy);
    routes.layer(cors).layer(policy)
}

fn policy<B>(response: &Response<B>) -> Option<HeaderValue> {
    let is_allowed = response.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN);
    is_allowed.then(|| HeaderValue::from_static("cross-origin"))
}
