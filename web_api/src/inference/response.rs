//! Result of a prediction request.

use std::sync::Arc;

use db_api::entry::Entry;

use crate::steering::Provenance;

/// A result, and how the cache contributed to it.
pub struct PredictionResponse {
    /// All outputs, with their cache key and age.
    pub entry: Arc<Entry>,
    /// Whether the result came from the cache, and whether it was stored.
    pub cache_status: Provenance,
}
