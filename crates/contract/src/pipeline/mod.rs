//! Pipelines: models whose steps are other models.

mod definition;
mod run;

pub use definition::{Edge, Pipeline, Source, Step};
pub use run::{MissingTensor, PipelineRun, empty_outputs};

#[cfg(test)]
mod tests;
