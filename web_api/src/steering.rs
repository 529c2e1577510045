//! `Cache-Control` of RFC 9111 in, `Cache-Status` of RFC 9211, `Age` and `ETag` out.

use std::borrow::Cow;

use db_api::cache::{CacheOutcome, NotStored, Priority, StoreResult};
use http::{HeaderMap, header};

/// The header in which a request says how urgent it is.
pub const PRIORITY: &str = "priority";
/// Its word for work in the background.
pub const BACKGROUND: &str = "u=7";

/// What a request allows the memory to do, and how urgent it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a directive of its own")]
pub struct Steering {
    /// `no-cache`: do not answer from memory; remember the new answer.
    pub no_cache: bool,
    /// `no-store`: neither read nor write.
    pub no_store: bool,
    /// `only-if-cached`: do not compute.
    pub only_if_cached: bool,
    /// `Priority: u=7` (RFC 9218 §4.1): people go first.
    pub in_background: bool,
}

/// How an answer came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// The memory was asked.
    Memory(CacheOutcome),
    /// The memory was asked for each row of a batch.
    Rows(RowCounts),
    /// The request forbade a cached result. The field says whether the new result was stored; `None` where the request
    /// forbade that as well.
    Bypass(Option<StoreResult>),
    /// Results of the model are not cached.
    Uncached(Uncached),
}

/// Why no result of a model is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncached {
    /// Its graph draws random numbers.
    Random,
    /// Its settings say so.
    Settings,
    /// It runs behind a queue without a digest: another model may take its place unnoticed.
    NoDigest,
}

/// Rows of a batch by how their answers came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// Remembered in this process.
    pub near: u64,
    /// Remembered in Redis.
    pub redis: u64,
    /// Computed for this caller.
    pub miss: u64,
    /// Computed for another caller, or for an equal row of this batch.
    pub collapsed: u64,
    /// Why at least one computed row was not stored.
    pub not_stored: Option<NotStored>,
}

impl RowCounts {
    /// One more.
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

    fn known(self) -> u64 {
        self.near + self.redis
    }

    fn all(self) -> u64 {
        self.known() + self.miss + self.collapsed
    }

    /// `Cache-Status` of a batch of which some rows were cached.
    fn partial(self) -> String {
        let (known, all) = (self.known(), self.all());
        match self.not_stored {
            Some(NotStored::TooLarge) => format!("mlserve; fwd=partial; detail=\"{known} of {all} rows, too-large\""),
            Some(NotStored::RedisUnavailable) => {
                format!("mlserve; fwd=partial; detail=\"{known} of {all} rows, redis-unavailable\"")
            }
            None => {
                let stored = if self.miss > 0 { "stored" } else { "collapsed" };
                format!("mlserve; fwd=partial; {stored}; detail=\"{known} of {all} rows\"")
            }
        }
    }
}

impl Steering {
    /// Reads every `Cache-Control` of a request. What we do not know is ignored, as RFC 9111 §5.2.3 wants.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut steering = Self::default();
        let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
        for directive in values.flat_map(|value| value.split(',')).map(str::trim) {
            let is = |word: &str| directive.eq_ignore_ascii_case(word);
            steering.no_cache |= is("no-cache") || is("max-age=0");
            steering.no_store |= is("no-store");
            steering.only_if_cached |= is("only-if-cached");
        }
        let urgency = headers.get(PRIORITY).and_then(|value| value.to_str().ok()).unwrap_or_default();
        steering.in_background = urgency.split(',').any(|member| member.trim() == BACKGROUND);
        steering
    }

    /// How soon its caller needs the result.
    pub fn priority(self) -> Priority {
        if self.in_background { Priority::Background } else { Priority::Interactive }
    }

    /// Whether an answer may come from memory.
    pub fn reads_memory(self) -> bool {
        !self.no_cache && !self.no_store
    }
}

impl Provenance {
    /// Whether the answer, or every row of it, was there before this request.
    pub fn is_remembered(self) -> bool {
        match self {
            Self::Memory(outcome) => matches!(outcome, CacheOutcome::LocalHit | CacheOutcome::RedisHit),
            Self::Rows(rows) => rows.known() == rows.all(),
            Self::Bypass(_) | Self::Uncached(_) => false,
        }
    }

    /// Whether nothing had to be computed for this caller: it was remembered, or another's run was waited for.
    pub fn cost_nothing(self) -> bool {
        match self {
            Self::Memory(outcome) => !outcome.is_computed(),
            Self::Rows(rows) => rows.miss == 0,
            Self::Bypass(_) | Self::Uncached(_) => false,
        }
    }

    /// The value of `Cache-Status`: `stored` only where the result was stored, and otherwise `detail` with the reason.
    pub fn cache_status(self) -> Cow<'static, str> {
        let status = match self {
            _ if self.is_remembered() => "mlserve; hit",
            Self::Rows(rows) if rows.known() > 0 => return rows.partial().into(),
            _ if self.cost_nothing() => "mlserve; fwd=miss; collapsed",
            Self::Memory(CacheOutcome::Unstored(reason)) | Self::Rows(RowCounts { not_stored: Some(reason), .. }) => {
                match reason {
                    NotStored::TooLarge => "mlserve; fwd=miss; detail=too-large",
                    NotStored::RedisUnavailable => "mlserve; fwd=miss; detail=redis-unavailable",
                }
            }
            Self::Memory(_) | Self::Rows(_) => "mlserve; fwd=miss; stored",
            Self::Bypass(None) => "mlserve; fwd=request",
            Self::Bypass(Some(Ok(()))) => "mlserve; fwd=request; stored",
            Self::Bypass(Some(Err(NotStored::TooLarge))) => "mlserve; fwd=request; detail=too-large",
            Self::Bypass(Some(Err(NotStored::RedisUnavailable))) => "mlserve; fwd=request; detail=redis-unavailable",
            Self::Uncached(Uncached::Random) => "mlserve; fwd=bypass; detail=random",
            Self::Uncached(Uncached::Settings) => "mlserve; fwd=bypass; detail=settings",
            Self::Uncached(Uncached::NoDigest) => "mlserve; fwd=bypass; detail=no-digest",
        };
        status.into()
    }

    /// Calls `count` with the labels in metrics, each with its number of rows out of `rows`.
    pub fn each_label(self, rows: u64, mut count: impl FnMut(&'static str, u64)) {
        match self {
            Self::Memory(CacheOutcome::LocalHit) => count("near", rows),
            Self::Memory(CacheOutcome::RedisHit) => count("redis", rows),
            Self::Memory(CacheOutcome::Miss | CacheOutcome::Unstored(_)) => count("miss", rows),
            Self::Memory(CacheOutcome::Collapsed) => count("collapsed", rows),
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
    fn directives_are_read_from_all_headers_in_any_case() {
        let steering = Steering::from_headers(&headers(&header::CACHE_CONTROL, &["No-Cache, foo=1", "no-store"]));
        assert_eq!(steering, Steering { no_cache: true, no_store: true, ..Steering::default() });
        assert_eq!(Steering::from_headers(&HeaderMap::new()), Steering::default());
    }

    #[test]
    fn a_batch_of_which_some_rows_are_known_is_a_partial_hit() {
        let status = |near, redis, miss, collapsed| {
            let counts = RowCounts { near, redis, miss, collapsed, not_stored: None };
            Provenance::Rows(counts).cache_status().into_owned()
        };
        assert_eq!(status(30, 2, 0, 0), "mlserve; hit");
        assert_eq!(status(29, 1, 2, 0), "mlserve; fwd=partial; stored; detail=\"30 of 32 rows\"");
        assert_eq!(status(1, 0, 0, 1), "mlserve; fwd=partial; collapsed; detail=\"1 of 2 rows\"");
        assert_eq!(status(0, 0, 1, 31), "mlserve; fwd=miss; stored");
        assert_eq!(status(0, 0, 0, 2), "mlserve; fwd=miss; collapsed");
    }

    #[test]
    fn what_was_not_stored_is_not_called_stored_and_the_reason_is_given() {
        let unstored = CacheOutcome::Unstored(NotStored::TooLarge);
        let mut rows = RowCounts { near: 1, ..RowCounts::default() };
        rows.add(CacheOutcome::Miss);
        rows.add(unstored);
        for (provenance, status) in [
            (Provenance::Memory(CacheOutcome::Miss), "mlserve; fwd=miss; stored"),
            (Provenance::Memory(unstored), "mlserve; fwd=miss; detail=too-large"),
            (
                Provenance::Memory(CacheOutcome::Unstored(NotStored::RedisUnavailable)),
                "mlserve; fwd=miss; detail=redis-unavailable",
            ),
            (Provenance::Rows(rows), "mlserve; fwd=partial; detail=\"1 of 3 rows, too-large\""),
            (Provenance::Rows(RowCounts { near: 0, ..rows }), "mlserve; fwd=miss; detail=too-large"),
            (Provenance::Bypass(None), "mlserve; fwd=request"),
            (Provenance::Bypass(Some(Ok(()))), "mlserve; fwd=request; stored"),
            (Provenance::Bypass(Some(Err(NotStored::TooLarge))), "mlserve; fwd=request; detail=too-large"),
            (Provenance::Uncached(Uncached::Random), "mlserve; fwd=bypass; detail=random"),
            (Provenance::Uncached(Uncached::Settings), "mlserve; fwd=bypass; detail=settings"),
            (Provenance::Uncached(Uncached::NoDigest), "mlserve; fwd=bypass; detail=no-digest"),
        ] {
            assert_eq!(provenance.cache_status(), status);
            assert!(!provenance.is_remembered() && !provenance.cost_nothing(), "{status}");
        }
    }
}
