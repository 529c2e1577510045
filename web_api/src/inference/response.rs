//! Result of a prediction request.

use std::sync::Arc;

use db_api::cache::CacheEntry;

use crate::cache_control::CacheStatus;

/// A result, and how the cache contributed to it.
pub struct PredictionResponse {
    /// All outputs, with their cache key and age.
    pub entry: Arc<CacheEntry>,
    /// Whether the result came from the cache, and whether it was stored.
    pub cache_status: CacheStatus,
}
