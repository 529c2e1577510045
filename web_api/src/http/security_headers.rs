use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Allows files of this server only, and images that the page itself creates.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' blob: data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // With `no-referrer`, browsers send `Origin: null` for a form of the page, so its origin could not be checked.
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(self), geolocation=(), microphone=()"),
    // Images are private data of their clients: browsers and proxies cache nothing unless a handler allows it.
    (header::CACHE_CONTROL, "private, no-store"),
];

/// All headers in one map. Cloning the map costs less than inserting each header into a map that grows.
static DEFAULTS: LazyLock<HeaderMap> = LazyLock::new(|| {
    let mut defaults = HeaderMap::with_capacity(2 * HEADERS.len());
    defaults.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    defaults
});

/// Adds the security headers to a response. Headers that the response already has are kept.
pub fn add_headers(response: &mut HeaderMap) {
    let own = std::mem::replace(response, DEFAULTS.clone());
    response.extend(own);
}
