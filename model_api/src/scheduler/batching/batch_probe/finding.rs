//! Result of the batching probe.

/// Result of the probe.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProbeResult {
    /// Whether rows depend on each other.
    pub rows: RowFinding,
    /// How results of equal inputs differed, if they did.
    pub nondeterminism: Option<String>,
    /// The largest distance between batch sizes that counted as rounding.
    pub rounding: f32,
}

/// Whether rows depend on each other in batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowFinding {
    /// Rows have the same results in batches and alone.
    NoDifference {
        /// Number of batches compared.
        batches: usize,
    },
    /// They differ. The text is a clause that follows "that".
    Difference(String),
    /// No batch was compared, for this reason.
    NotRun(String),
    /// There are no rows: this input has no open first axis.
    NoBatchAxis(String),
}

impl Default for RowFinding {
    fn default() -> Self {
        Self::NotRun("it has not run".to_owned())
    }
}
