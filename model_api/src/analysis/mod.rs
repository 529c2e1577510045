//! Static analysis of an ONNX graph: what can be known of a model before it has run.
//!
//! It runs in the session's process, where a damaged file can do no harm, and reaches the parent in
//! [`SessionInfo`](crate::session::SessionInfo).

mod random;
mod rows;
mod tasks;
#[cfg(test)]
mod tests;
pub mod training;

use std::collections::BTreeMap;

use open_inference::{Activation, Task};
use serde::{Deserialize, Serialize};

use crate::onnx_file::Model;

/// What the graph alone shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GraphFacts {
    /// Whether each row's result depends on that row alone.
    pub rows: RowAnalysis,
    /// The operator that draws random numbers, where there is one: results differ from run to run.
    pub random: Option<String>,
    /// What outputs are, by name; those of which nothing is known are absent.
    pub tasks: BTreeMap<String, DerivedTask>,
}

/// Whether each row's result depends on that row alone, as far as the graph shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowAnalysis {
    /// Proved: the batch axis was followed through every operator.
    Independent,
    /// An operator couples rows; the reason names it.
    Dependent(String),
    /// Neither; the reason names the first operator that could not be followed.
    Unknown(String),
}

/// What an output is, as the last operators before it show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DerivedTask {
    /// What it is.
    pub task: Task,
    /// What its values still need to become probabilities; `Some(Activation::None)` where they are probabilities.
    pub activation: Option<Activation>,
    /// Names of the classes, where the graph holds them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
}

impl DerivedTask {
    fn new(task: Task, activation: Option<Activation>) -> Self {
        Self { task, activation, labels: Vec::new() }
    }
}

impl Default for RowAnalysis {
    fn default() -> Self {
        Self::Unknown("the graph was not analysed".to_owned())
    }
}

/// Analyses a graph. An ORT-format file cannot be analysed; its caller uses [`GraphFacts::default`].
pub fn analyse(model: &Model) -> GraphFacts {
    let random = random::find(model);
    let rows = match &random {
        Some(reason) => RowAnalysis::Dependent(reason.clone()),
        None => rows::analyse(model),
    };
    GraphFacts { rows, random, tasks: tasks::derive(model) }
}
