//! Entries of the model repository index.

use serde::{Deserialize, Serialize};

use super::metadata::Batching;

/// Entry of the repository index: one version of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIndex {
    /// Name of the model.
    pub name: String,
    /// Version of the model.
    pub version: String,
    /// Load state.
    pub state: ModelState,
    /// Why the version is not ready, or why a newer one on disk is not served. Empty otherwise.
    pub reason: String,
    /// Whether rows of different requests run in one batch, and why. Absent where unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<Batching>,
}

/// State of a model version in the repository index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ModelState {
    /// Being loaded or warmed up.
    Loading,
    /// Warmed up and serving.
    Ready,
    /// Draining: requests in flight complete, new ones are rejected.
    Unloading,
    /// Not servable. The reason is in the index entry.
    Unavailable,
}
