//! Static analysis of an ONNX graph: row independence, random operators and tasks of outputs.
//!
//! It runs in the session process, where a damaged file can do no harm. The result reaches the parent process in
//! [`SessionInfo`](crate::session::SessionInfo).

mod facts;
mod graph;
mod randomness;
mod row_independence;
mod tasks;
#[cfg(test)]
mod tests;
pub mod training_mode;

pub use facts::{DerivedTask, GraphFacts, RowAnalysis};

use crate::onnx::proto::Model;

/// Analyses a graph. A file in ORT format cannot be analysed; for it [`GraphFacts::default`] applies.
pub fn analyse(model: &Model) -> GraphFacts {
    let random = randomness::find_random_operator(model);
    let rows = match &random {
        Some(reason) => RowAnalysis::Dependent(reason.clone()),
        None => row_independence::analyse(model),
    };
    GraphFacts { rows, random, tasks: tasks::derive_tasks(model) }
}
