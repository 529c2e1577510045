//! Results of the analysis, which the session process sends to the parent process.

use std::collections::BTreeMap;

use open_inference::{Activation, Task};
use serde::{Deserialize, Serialize};

/// Result of the analysis of one graph.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GraphFacts {
    /// Whether each row's result depends on that row alone.
    pub rows: RowAnalysis,
    /// The operator that draws random numbers, if there is one. Results then differ from run to run.
    pub random: Option<String>,
    /// Tasks of outputs, by name. Outputs without a known task are absent.
    pub tasks: BTreeMap<String, DerivedTask>,
}

/// Whether each row's result depends on that row alone, as far as the graph proves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowAnalysis {
    /// Proved: the batch axis was traced through every operator.
    Independent,
    /// An operator combines rows. The reason names it.
    Dependent(String),
    /// Neither is proved. The reason names the first operator that could not be traced.
    Unknown(String),
}

/// Task of an output, derived from the operators that compute it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DerivedTask {
    /// The task.
    pub task: Task,
    /// The function that turns its values into probabilities. `Some(Activation::None)` if they already are probabilities.
    pub activation: Option<Activation>,
    /// Names of the classes, if the graph contains them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
}

impl DerivedTask {
    pub(super) fn new(task: Task, activation: Option<Activation>) -> Self {
        Self { task, activation, labels: Vec::new() }
    }
}

impl Default for RowAnalysis {
    fn default() -> Self {
        Self::Unknown("the graph was not analysed".to_owned())
    }
}
