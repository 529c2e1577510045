//! Conditional requests (RFC 9110 §13).

use http::{HeaderMap, header};

/// Whether `If-None-Match` contains `etag`, by weak comparison (RFC 9110 §13.1.2). `*` does not match: its sender has
/// no cached response and checks only whether one exists.
pub fn etag_matches(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|tag| tag.trim().trim_start_matches("W/") == etag)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn etag_matches_weakly_and_in_a_list() {
        let request = HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static("\"a\", W/\"b\", *"))]);
        assert!(etag_matches(&request, "\"b\""));
        assert!(!etag_matches(&request, "\"c\""));
    }
}
