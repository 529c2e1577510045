//! The seam below which ONNX Runtime begins.
//!
//! ONNX Runtime can be killed by a request, keeps memory that it no longer needs, and holds on to CUDA errors until its
//! process ends. So it runs in child processes: `model_api session`, started by the parent with one end of a socket pair
//! as its standard input. [`crate::pool`] keeps a model's children alive and hands them batches; everything above it sees
//! tensors going in and out. Tests put a [`Launcher`] of their own in the children's place.

mod card;
mod child;
mod device;
mod ending;
mod frame;
mod graph;
mod onnx;
mod process;
mod sizes;
mod strings;
mod value;
mod warm_up;
mod words;

use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::path::PathBuf;
use std::sync::Arc;

use contract::Device;
use open_inference::{Tensor, TensorMetadata};
use serde::{Deserialize, Serialize};

use crate::memory::Exceeded;
use crate::onnx::analysis::GraphFacts;
pub use child::main as child_main;
use device::Kind;
pub use frame::MAX_RESULT_BYTES;
pub use process::ChildLauncher;
pub use sizes::common_rows;
pub use warm_up::{known_shape, narrows};

/// `DEVICE`: where a model may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceWish {
    /// On CUDA when it really works, else on the CPU, saying why.
    Auto,
    /// On the CPU; CUDA is not tried.
    Cpu,
    /// On CUDA or not at all.
    Cuda,
}

/// What a session says of itself once it is warm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// In the graph's order.
    pub inputs: Vec<TensorMetadata>,
    /// Those that are served, in the graph's order.
    pub outputs: Vec<TensorMetadata>,
    /// Outputs of the graph that are not served, each with the reason.
    pub left_out: Vec<String>,
    /// What really runs.
    pub device: Device,
    /// What the graph shows before it has run.
    pub facts: GraphFacts,
}

impl Hello {
    /// The inputs that every run needs, in the graph's order.
    pub fn required_inputs(&self) -> impl Iterator<Item = &TensorMetadata> {
        self.inputs.iter().filter(|input| !input.parameters.optional)
    }

    /// Whether the session runs on a graphics card.
    pub fn is_on_card(&self) -> bool {
        self.device.name == Kind::Cuda.name()
    }
}

/// What is needed to start a session of a model.
#[derive(Clone)]
pub struct Blueprint {
    /// For the log.
    pub model: String,
    /// The ONNX file.
    pub graph: PathBuf,
    /// Threads of one operator.
    pub threads: usize,
    /// Input shapes for the warm-up where they say more than the graph.
    pub shapes: BTreeMap<String, Vec<i64>>,
    /// Whether the files are still those of the model's digest. Asked after each start, since by then the session has
    /// read them: a session of other files must not answer under this digest.
    pub unchanged: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// Why a session did not start. No reason holds a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum StartError {
    /// The model cannot be opened or does not run.
    #[error("{0}")]
    Model(String),
    /// `DEVICE=cuda`, and CUDA does not work.
    #[error("DEVICE=cuda, but {0}")]
    NoDevice(String),
    /// The process died before it said why, or keeps dying.
    #[error("{0}")]
    Died(String),
}

/// Why a session did not answer.
#[derive(Debug, PartialEq, Eq)]
pub enum SessionError {
    /// The model refused these inputs; the session is as good as before.
    Refused(String),
    /// The run was ended before it had an answer; the session is as good as before.
    GivenUp,
    /// The session is of no use any more.
    Died(String),
    /// The session used more memory than it may and was ended.
    OutOfMemory(Exceeded),
    /// The outputs have so many bytes, more than [`MAX_RESULT_BYTES`]; the session is as good as before.
    TooLarge(usize),
}

/// The memory of a session, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionMemory {
    /// What it uses now.
    pub used: u64,
    /// What all sessions together may still take.
    pub room: u64,
}

/// Starts sessions: child processes in production, fakes in tests.
pub trait Launcher: Clone + Send + Sync + 'static {
    /// What it starts.
    type Session: Session;

    /// Comes back when the session is warm.
    fn launch(&self, blueprint: &Blueprint) -> impl Future<Output = Result<(Hello, Self::Session), StartError>> + Send;
}

/// A model that can be run. Dropping it ends it, whatever it is doing.
pub trait Session: Send + 'static {
    /// Runs the model once on the rows of all `requests`, one after the other along the first axis; they must have the
    /// same inputs in the same order, alike in all but the number of their rows. When `give_up` resolves first, the run is
    /// ended, and the session dies if it does not obey. When the future is dropped early, the session must be dropped as
    /// well.
    fn run(
        &mut self,
        requests: &[&[Tensor]],
        give_up: impl Future<Output = ()> + Send,
    ) -> impl Future<Output = Result<Vec<Tensor>, SessionError>> + Send;

    /// From here on batches of up to so many rows, and of more than any smaller size that is kept, are run as ones of so
    /// many. Only for a model whose rows are independent of each other. Refused where it would take memory that others need.
    /// Dropping the future early is as with [`Self::run`]. Nothing by default.
    fn keep_size(&mut self, _rows: usize) -> impl Future<Output = Result<(), SessionError>> + Send {
        ready(Ok(()))
    }

    /// Its memory now, which takes a look at the system. `None` where it is not known. Nothing by default.
    fn memory(&self) -> Option<SessionMemory> {
        None
    }

    /// The size from which its growth counts from now on, bytes. Nothing by default.
    fn set_warm(&mut self, _bytes: u64) {}

    /// Resolves, with the reason, when the session has died by itself. Cancel-safe.
    fn died(&mut self) -> impl Future<Output = String> + Send;
}
