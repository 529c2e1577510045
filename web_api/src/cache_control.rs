//! Cache directives and cache status: `Cache-Control` (RFC 9111) and `Priority` (RFC 9218) of a request, `Cache-Status` (RFC 9211) of
//! a response.

use std::borrow::Cow;

use db_api::cache::{CacheOutcome, NotStored, Priority, StoreResult};
use http::{HeaderMap, header};

/// Name of the header `Priority`.
pub const PRIORITY_HEADER: &str = "priority";
/// Member of `Priority` with the lowest urgency, which marks background work.
pub const BACKGROUND_PRIORITY: &str = "u=7";

/// Cache directives and priority of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a directive of its own")]
pub struct RequestOptions {
    /// `no-cache`: do not return a cached result; store the new one.
    pub no_cache: bool,
    /// `no-store`: neither look up nor store.
    pub no_store: bool,
    /// `only-if-cached`: do not run inference.
    pub only_if_cached: bool,
    /// `Priority: u=7`: interactive requests go first.
    pub in_background: bool,
}

/// How the cache handled a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheStatus {
    /// The result was looked up as a whole.
    Lookup(CacheOutcome),
    /// Each row of a batch was looked up.
    Rows(RowCounts),
    /// The request forbade a cached result. The field is whether the new result was stored; `None` where the request
    /// forbade that as well.
    Bypass(Option<StoreResult>),
    /// Results of the model are not cached.
    Uncached(UncachedReason),
}

/// Why results of a model are not cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UncachedReason {
    /// The graph draws random numbers.
    Random,
    /// The model's settings disable caching.
    Settings,
    /// An external worker serves the model without a digest, so a replaced model would go unnoticed.
    NoDigest,
}

/// Number of rows of a batch by cache outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// Hits in the in-process cache.
    pub near: u64,
    /// Hits in Redis.
    pub redis: u64,
    /// Rows computed for this request.
    pub miss: u64,
    /// Rows computed once for this request and another one, or for an equal row of this batch.
    pub collapsed: u64,
    /// Why at least one computed row was not stored.
    pub not_stored: Option<NotStored>,
}

impl RowCounts {
    /// Counts one row.
    pub fn add(&mut self, outcome: CacheOutcome) {
        *match outcome {
            CacheOutcome::LocalHit => &mut self.near,
            CacheOutcome::RedisHit => &mut self.redis,
            CacheOutcome::Miss => &mut self.miss,
            CacheOutcome::Unstored(reason) => {
                self.not_stored = Some(reason);
                &mut self.miss
            }
            CacheOutcome::Collapsed => &mut self.collapsed,
        } += 1;
    }

    fn hits(self) -> u64 {
        self.near + self.redis
    }

    fn total(self) -> u64 {
        self.hits() + self.miss + self.collapsed
    }

    /// `Cache-Status` of a batch with both hits and other rows.
    fn partial_hit(self) -> String {
        let (hits, total) = (self.hits(), self.total());
        match self.not_stored {
            Some(NotStored::TooLarge) => format!("mlserve; fwd=partial; detail=\"{hits} of {total} rows, too-large\""),
            Some(NotStored::RedisUnavailable) => {
                format!("mlserve; fwd=partial; detail=\"{hits} of {total} rows, redis-unavailable\"")
            }
            None => {
                let stored = if self.miss > 0 { "stored" } else { "collapsed" };
                format!("mlserve; fwd=partial; {stored}; detail=\"{hits} of {total} rows\"")
            }
        }
    }
}

impl RequestOptions {
    /// Parses `Cache-Control` and `Priority`. Unknown directives are ignored (RFC 9111 §5.2.3).
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut options = Self::default();
        let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
        for directive in values.flat_map(|value| value.split(',')).map(str::trim) {
            let is = |name: &str| directive.eq_ignore_ascii_case(name);
            options.no_cache |= is("no-cache") || is("max-age=0");
            options.no_store |= is("no-store");
            options.only_if_cached |= is("only-if-cached");
        }
        let priority = headers.get(PRIORITY_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
        options.in_background = priority.split(',').any(|member| member.trim() == BACKGROUND_PRIORITY);
        options
    }

    /// Priority of the request.
    pub fn priority(self) -> Priority {
        if self.in_background { Priority::Background } else { Priority::Interactive }
    }

    /// Whether a cached result may be returned.
    pub fn allows_lookup(self) -> bool {
        !self.no_cache && !self.no_store
    }
}

impl CacheStatus {
    /// Whether the result, or every row of it, was in the cache.
    pub fn is_hit(self) -> bool {
        match self {
            Self::Lookup(outcome) => matches!(outcome, CacheOutcome::LocalHit | CacheOutcome::RedisHit),
            Self::Rows(rows) => rows.hits() == rows.total(),
            Self::Bypass(_) | Self::Uncached(_) => false,
        }
    }

    /// Whether nothing was computed for this request: a hit, or the result of another request's inference (single flight).
    pub fn is_reused(self) -> bool {
        match self {
            Self::Lookup(outcome) => !outcome.is_computed(),
            Self::Rows(rows) => rows.miss == 0,
            Self::Bypass(_) | Self::Uncached(_) => false,
        }
    }

    /// Value of the header `Cache-Status`. It has `stored` only where the result was stored, and otherwise the reason in `detail`.
    pub fn header_value(self) -> Cow<'static, str> {
        let status = match self {
            _ if self.is_hit() => "mlserve; hit",
            Self::Rows(rows) if rows.hits() > 0 => return rows.partial_hit().into(),
            _ if self.is_reused() => "mlserve; fwd=miss; collapsed",
            Self::Lookup(CacheOutcome::Unstored(reason)) | Self::Rows(RowCounts { not_stored: Some(reason), .. }) => {
                match reason {
                    NotStored::TooLarge => "mlserve; fwd=miss; detail=too-large",
                    NotStored::RedisUnavailable => "mlserve; fwd=miss; detail=redis-unavailable",
                }
            }
            Self::Lookup(_) | Self::Rows(_) => "mlserve; fwd=miss; stored",
            Self::Bypass(None) => "mlserve; fwd=request",
            Self::Bypass(Some(Ok(()))) => "mlserve; fwd=request; stored",
            Self::Bypass(Some(Err(NotStored::TooLarge))) => "mlserve; fwd=request; detail=too-large",
            Self::Bypass(Some(Err(NotStored::RedisUnavailable))) => "mlserve; fwd=request; detail=redis-unavailable",
            Self::Uncached(UncachedReason::Random) => "mlserve; fwd=bypass; detail=random",
            Self::Uncached(UncachedReason::Settings) => "mlserve; fwd=bypass; detail=settings",
            Self::Uncached(UncachedReason::NoDigest) => "mlserve; fwd=bypass; detail=no-digest",
        };
        status.into()
    }

    /// Calls `count` with each metric label and its number of rows, out of `rows`.
    pub fn for_each_label(self, rows: u64, mut count: impl FnMut(&'static str, u64)) {
        match self {
            Self::Lookup(CacheOutcome::LocalHit) => count("near", rows),
            Self::Lookup(CacheOutcome::RedisHit) => count("redis", rows),
            Self::Lookup(CacheOutcome::Miss | CacheOutcome::Unstored(_)) => count("miss", rows),
            Self::Lookup(CacheOutcome::Collapsed) => count("collapsed", rows),
            Self::Rows(RowCounts { near, redis, miss, collapsed, .. }) => {
                for (label, rows) in [("near", near), ("redis", redis), ("miss", miss), ("collapsed", collapsed)] {
                    count(label, rows);
                }
            }
            Self::Bypass(_) | Self::Uncached(_) => count("bypass", rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &header::HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), header::HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn directives_are_parsed_from_all_headers_case_insensitively() {
        let options = RequestOptions::from_headers(&headers(&header::CACHE_CONTROL, &["No-Cache, foo=1", "no-store"]));
        assert_eq!(options, RequestOptions { no_cache: true, no_store: true, ..RequestOptions::default() });
        assert_eq!(RequestOptions::from_headers(&HeaderMap::new()), RequestOptions::default());
    }

    #[test]
    fn a_batch_with_hits_and_misses_is_a_partial_hit() {
        let status = |near, redis, miss, collapsed| {
            let counts = RowCounts { near, redis, miss, collapsed, not_stored: None };
            CacheStatus::Rows(counts).header_value().into_owned()
        };
        assert_eq!(status(30, 2, 0, 0), "mlserve; hit");
        assert_eq!(status(29, 1, 2, 0), "mlserve; fwd=partial; stored; detail=\"30 of 32 rows\"");
        assert_eq!(status(1, 0, 0, 1), "mlserve; fwd=partial; collapsed; detail=\"1 of 2 rows\"");
        assert_eq!(status(0, 0, 1, 31), "mlserve; fwd=miss; stored");
        assert_eq!(status(0, 0, 0, 2), "mlserve; fwd=miss; collapsed");
    }

    #[test]
    fn a_result_that_was_not_stored_has_the_reason_instead_of_stored() {
        let unstored = CacheOutcome::Unstored(NotStored::TooLarge);
        let mut rows = RowCounts { near: 1, ..RowCounts::default() };
        rows.add(CacheOutcome::Miss);
        rows.add(unstored);
        for (status, value) in [
            (CacheStatus::Lookup(CacheOutcome::Miss), "mlserve; fwd=miss; stored"),
            (CacheStatus::Lookup(unstored), "mlserve; fwd=miss; detail=too-large"),
            (
                CacheStatus::Lookup(CacheOutcome::Unstored(NotStored::RedisUnavailable)),
                "mlserve; fwd=miss; detail=redis-unavailable",
            ),
            (CacheStatus::Rows(rows), "mlserve; fwd=partial; detail=\"1 of 3 rows, too-large\""),
            (CacheStatus::Rows(RowCounts { near: 0, ..rows }), "mlserve; fwd=miss; detail=too-large"),
            (CacheStatus::Bypass(None), "mlserve; fwd=request"),
            (CacheStatus::Bypass(Some(Ok(()))), "mlserve; fwd=request; stored"),
            (CacheStatus::Bypass(Some(Err(NotStored::TooLarge))), "mlserve; fwd=request; detail=too-large"),
            (CacheStatus::Uncached(UncachedReason::Random), "mlserve; fwd=bypass; detail=random"),
            (CacheStatus::Uncached(UncachedReason::Settings), "mlserve; fwd=bypass; detail=settings"),
            (CacheStatus::Uncached(UncachedReason::NoDigest), "mlserve; fwd=bypass; detail=no-digest"),
        ] {
            assert_eq!(status.header_value(), value);
            assert!(!status.is_hit() && !status.is_reused(), "{value}");
        }
    }
}
