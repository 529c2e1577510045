//! `Cache-Control` of RFC 9111 in, `Cache-Status` of RFC 9211, `Age` and `ETag` out.

use db_api::memory::Outcome;
use http::{HeaderMap, header};

/// What a request allows the memory to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    /// `no-cache`: do not answer from memory; remember the new answer.
    pub no_cache: bool,
    /// `no-store`: neither read nor write.
    pub no_store: bool,
    /// `only-if-cached`: do not compute.
    pub only_if_cached: bool,
}

/// How an answer came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// The memory was asked.
    Memory(Outcome),
    /// The request forbade to ask it; `stored` tells whether the answer is remembered now.
    Bypass {
        /// Whether it is remembered now.
        stored: bool,
    },
}

impl Steering {
    /// Reads every `Cache-Control` of a request. What we do not know is ignored, as RFC 9111 §5.2.3 wants.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut steering = Self::default();
        let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
        for directive in values.flat_map(|value| value.split(',')) {
            match directive.trim().to_ascii_lowercase().as_str() {
                "no-cache" | "max-age=0" => steering.no_cache = true,
                "no-store" => steering.no_store = true,
                "only-if-cached" => steering.only_if_cached = true,
                _ => {}
            }
        }
        steering
    }
}

impl Provenance {
    /// Whether the answer was there before this request.
    pub fn is_remembered(self) -> bool {
        matches!(self, Self::Memory(Outcome::Near | Outcome::Redis))
    }

    /// The value of `Cache-Status`.
    pub fn cache_status(self) -> &'static str {
        match self {
            Self::Memory(Outcome::Near | Outcome::Redis) => "mlserve; hit",
            Self::Memory(Outcome::Miss) => "mlserve; fwd=miss; stored",
            Self::Memory(Outcome::Collapsed) => "mlserve; fwd=miss; collapsed",
            Self::Bypass { stored: true } => "mlserve; fwd=request; stored",
            Self::Bypass { stored: false } => "mlserve; fwd=request",
        }
    }

    /// The label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Memory(Outcome::Near) => "near",
            Self::Memory(Outcome::Redis) => "redis",
            Self::Memory(Outcome::Miss) => "miss",
            Self::Memory(Outcome::Collapsed) => "collapsed",
            Self::Bypass { .. } => "bypass",
        }
    }
}

/// Whether `If-None-Match` names `etag`. An answer's tag is its question's key, so a match needs no look-up.
pub fn none_match(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|tag| tag.trim().trim_start_matches("W/") == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &header::HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), header::HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn directives_are_read_from_all_headers_in_any_case() {
        let steering = Steering::from_headers(&headers(&header::CACHE_CONTROL, &["No-Cache, foo=1", "no-store"]));
        assert_eq!(steering, Steering { no_cache: true, no_store: true, only_if_cached: false });
        assert_eq!(Steering::from_headers(&HeaderMap::new()), Steering::default());
    }

    #[test]
    fn a_tag_matches_weakly_and_in_a_list() {
        let request = headers(&header::IF_NONE_MATCH, &["\"a\", W/\"b\""]);
        assert!(none_match(&request, "\"b\""));
        assert!(!none_match(&request, "\"c\""));
    }
}
