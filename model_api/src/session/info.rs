//! Configuration and self-description of a session.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use contract::Device;
use open_inference::TensorMetadata;
use serde::{Deserialize, Serialize};

use crate::onnx::analysis::GraphFacts;

/// `DEVICE`: where a model may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DevicePreference {
    /// On CUDA if it works, otherwise on the CPU with a fallback reason.
    Auto,
    /// On the CPU. CUDA is not tried.
    Cpu,
    /// On CUDA. No fallback.
    Cuda,
}

/// The device that runs a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    Cpu,
    Cuda,
}

impl DeviceKind {
    /// As in the API and in metric labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// What a session reports once it is warm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// In the order of the graph.
    pub inputs: Vec<TensorMetadata>,
    /// Served outputs, in the order of the graph.
    pub outputs: Vec<TensorMetadata>,
    /// Outputs of the graph that are not served, each with the reason.
    pub left_out: Vec<String>,
    /// The device in use.
    pub device: Device,
    /// Results of the static analysis of the graph.
    pub facts: GraphFacts,
}

impl SessionInfo {
    /// The inputs that every run needs, in the order of the graph.
    pub fn required_inputs(&self) -> impl Iterator<Item = &TensorMetadata> {
        self.inputs.iter().filter(|input| !input.parameters.optional)
    }

    /// Whether the session runs on a GPU.
    pub fn is_on_gpu(&self) -> bool {
        self.device.name == DeviceKind::Cuda.name()
    }
}

/// Configuration of a model's sessions.
#[derive(Clone)]
pub struct SessionConfig {
    /// Model name for the log.
    pub model: String,
    /// The ONNX file.
    pub graph: PathBuf,
    /// Threads per operator.
    pub threads: usize,
    /// Input shapes for the warm-up, if the settings specify more than the graph.
    pub shapes: BTreeMap<String, Vec<i64>>,
    /// Whether the files still match the digest of the model. Called after each start, when the session has read the files: a
    /// session of other files must not serve this digest.
    pub unchanged: Arc<dyn Fn() -> bool + Send + Sync>,
}
