/// How a result was obtained. The log field, the metric label and the `Cache-Status` header derive from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheOutcome {
    /// Hit in the in-process cache.
    LocalHit,
    /// Hit in Redis.
    RedisHit,
    /// Miss: computed for this caller, and stored.
    Miss,
    /// Miss: computed for this caller, and not stored.
    Unstored(NotStored),
    /// Computed for another caller with the same key at the same time (single flight).
    Collapsed,
}

impl CacheOutcome {
    pub(super) fn of_computed(stored: StoreResult) -> Self {
        stored.err().map_or(Self::Miss, Self::Unstored)
    }

    /// Whether the result was computed for this caller.
    pub fn is_computed(self) -> bool {
        matches!(self, Self::Miss | Self::Unstored(_))
    }
}

/// Whether a computed result was stored. A result that waits to be written to Redis counts as stored.
pub type StoreResult = Result<(), NotStored>;

/// Why a computed result was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotStored {
    /// It is larger than each cache accepts: an eighth of the local cache, and 4 MiB in Redis.
    TooLarge,
    /// It is too large for the local cache, and Redis does not respond or too many writes are queued.
    RedisUnavailable,
}

/// Why a computation has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure<E> {
    /// The error for the caller that ran the computation.
    pub error: E,
    /// The fault may lie with another part of a joint computation, such as another row of a batch. Callers that waited for this
    /// flight then retry on their own instead of getting an error that may not be theirs.
    pub is_shared_fault: bool,
}

impl<E> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Self { error, is_shared_fault: false }
    }
}
