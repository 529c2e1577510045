use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Nothing but our own files, and pictures that the page itself made.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' blob: data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // With `no-referrer`, a browser would not say that a form of the page is of the same origin.
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(self), geolocation=(), microphone=()"),
    // Browsers and proxies keep nothing that a handler does not let them keep: the pictures people send are theirs.
    (header::CACHE_CONTROL, "private, no-store"),
];

/// Copied for each answer, which is less work than putting one after the other into a map that grows.
static ALL: LazyLock<HeaderMap> = LazyLock::new(|| {
    let mut all = HeaderMap::with_capacity(2 * HEADERS.len());
    all.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    all
});

/// Puts the headers on an answer that a browser could show, except where it has its own.
pub fn headers(answer: &mut HeaderMap) {
    let own = std::mem::replace(answer, ALL.clone());
    answer.extend(own);
}
