//! Result of the probe.

/// What the probe has shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probed {
    /// Of rows in batches.
    pub rows: Finding,
    /// How results of equal inputs differed; `None` where they did not.
    pub random: Option<String>,
    /// The largest distance of results of a row in batches of different sizes that passed for rounding.
    pub rounding: f32,
}

/// What the probe has shown of rows in batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Rows have the same results in batches as alone.
    NoDifference {
        /// How many batches were compared.
        batches: usize,
    },
    /// They do not; this is how, as a clause that follows "that".
    Difference(String),
    /// Nothing was compared; this is why.
    NotRun(String),
    /// This input has no open first axis, so there are no rows.
    NoBatchAxis(String),
}

impl Default for Finding {
    fn default() -> Self {
        Self::NotRun("it has not been tried".to_owned())
    }
}
