//! A loaded model: warm-up, batch buckets and runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use contract::Device;
use open_inference::Tensor;
use ort::environment::Environment;
use ort::ep;
use ort::ep::ExecutionProvider;
use ort::session::{OutputSelector, RunOptions, Session, SessionInputValue};
use tracing::warn;

use super::device::{self, Opened};
use super::graph::Graph;
use super::padding::PaddedBatch;
use super::run_options::{CancelFlag, Options};
use super::sanitize_error::error_text;
use super::session_builder::{environment, library_version, open_session, read_graph};
use super::{value, warm_up};
use crate::memory::MAX_RESULT_BYTES;
use crate::onnx::analysis;
use crate::session::error::{SessionError, StartError};
use crate::session::frame::LoadRequest;
use crate::session::info::{DeviceKind, SessionInfo};
use crate::session::shape::common_rows;

/// A warm model.
pub struct OnnxModel {
    session: Session,
    /// Batch buckets: an ONNX Runtime session for one batch size each, by number of rows.
    buckets: BTreeMap<usize, Session>,
    environment: Environment,
    load: LoadRequest,
    kind: DeviceKind,
    graph: Graph,
    options: Arc<Options>,
}

impl OnnxModel {
    /// Loads the library, opens the model on the preferred device and runs it once.
    pub fn open(load: &LoadRequest) -> Result<(Self, SessionInfo), StartError> {
        let environment = environment(&load.library).map_err(StartError::Model)?;
        let library_has_cuda = ep::CUDA::is_available().unwrap_or(false);
        let Opened { model, kind, fallback_reason } =
            device::open(load.device, device::machine_has_gpu(), library_has_cuda, |kind| {
                let mut model = Self::open_on(&environment, load, kind)?;
                model.warm_up()?;
                Ok(model)
            })?;
        let runtime = library_version(&load.library);
        let device = Device { name: kind.name().to_owned(), fallback_reason, runtime };
        let Graph { inputs, outputs, left_out } = &model.graph;
        let (inputs, outputs, left_out) = (inputs.clone(), outputs.clone(), left_out.clone());
        // ONNX Runtime has just read the file. A file in its own format has no facts.
        let facts = read_graph(&load.graph).map(|graph| analysis::analyse(&graph)).unwrap_or_default();
        Ok((model, SessionInfo { inputs, outputs, left_out, device, facts }))
    }

    fn open_on(environment: &Environment, load: &LoadRequest, kind: DeviceKind) -> Result<Self, String> {
        let session = open_session(environment, load, kind)?;
        let graph = Graph::read(&session)?;
        let served = graph.outputs.iter().fold(OutputSelector::no_default(), |all, output| all.with(&output.name));
        let options = Arc::new(Options::new(RunOptions::new().map_err(error_text)?.with_outputs(served)));
        let (environment, load) = (environment.clone(), load.clone());
        Ok(Self { session, buckets: BTreeMap::new(), environment, load, kind, graph, options })
    }

    fn warm_up(&mut self) -> Result<(), String> {
        let load = &self.load;
        let inputs: Vec<Tensor> =
            self.graph.required().iter().map(|input| warm_up::input(input, load)).collect::<Result<_, _>>()?;
        let failed = |reason| Err(format!("the warm-up run failed: {reason}"));
        let reason = match self.run(&inputs) {
            Ok(_) => return Ok(()),
            Err(SessionError::Crashed(reason)) => return failed(reason),
            Err(SessionError::Cancelled) => return failed("it was cancelled".to_owned()),
            Err(SessionError::OutOfMemory(exceeded)) => return failed(exceeded.to_string()),
            Err(SessionError::OutputsTooLarge(bytes)) => return failed(format!("its outputs have {bytes} bytes")),
            Err(SessionError::Rejected(reason)) => reason,
        };
        // The model may reject generated inputs for a good reason, and accept every real one. On CUDA, a second run on the CPU
        // distinguishes such a model from a broken device: the CPU must reject the inputs as well.
        let is_rejected_by_model = || match self.kind {
            DeviceKind::Cpu => true,
            DeviceKind::Cuda => Self::open_on(&self.environment, &self.load, DeviceKind::Cpu)
                .is_ok_and(|mut on_cpu| matches!(on_cpu.run(&inputs), Err(SessionError::Rejected(_)))),
        };
        if warm_up::is_guess(self.graph.required(), &self.load) && is_rejected_by_model() {
            warn!(reason, "warm-up with generated inputs failed, serving the model anyway");
            return Ok(());
        }
        failed(reason)
    }

    /// The flag that cancels its runs.
    pub fn cancel_flag(&self) -> CancelFlag {
        CancelFlag::new(&self.options)
    }

    /// Opens another session for batches of `rows` rows.
    pub fn add_bucket(&mut self, rows: usize) -> Result<(), String> {
        let session = open_session(&self.environment, &self.load, self.kind)?;
        self.buckets.insert(rows, session);
        Ok(())
    }

    /// Runs the model once, in the smallest bucket that is large enough if there is one. Batches with optional inputs are not
    /// padded: these inputs need not have a batch axis.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, SessionError> {
        let Self { session, buckets, graph, options, kind, .. } = self;
        let rows = common_rows(inputs).filter(|_| inputs.len() == graph.required().len()).unwrap_or(usize::MAX);
        if let Some((&size, bucket)) = buckets.range_mut(rows..).next() {
            let Some(padded) = PaddedBatch::new(inputs, size) else {
                return run(bucket, *kind, graph, options, inputs);
            };
            match run(bucket, *kind, graph, options, &padded.inputs) {
                Ok(outputs) => {
                    if let Some(outputs) = padded.unpad(&outputs) {
                        return Ok(outputs);
                    }
                }
                // The rejection may concern the padding. Retry without it.
                Err(SessionError::Rejected(_)) => {}
                Err(error) => return Err(error),
            }
        }
        run(session, *kind, graph, options, inputs)
    }
}

fn run(
    session: &mut Session,
    kind: DeviceKind,
    graph: &Graph,
    options: &Options,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>, SessionError> {
    let inputs: Vec<(&str, SessionInputValue)> = inputs
        .iter()
        .map(|tensor| Ok((tensor.name.as_str(), value::to_ort(tensor)?)))
        .collect::<Result<_, String>>()
        .map_err(SessionError::Rejected)?;
    let failed = |error| match classify(kind, error_text(error)) {
        // Whatever the message is: the run failed because of the cancellation.
        SessionError::Rejected(_) if options.is_cancelled() => SessionError::Cancelled,
        error => error,
    };
    let outputs = session.run_with_options(inputs, &options.run).map_err(failed)?;
    // The limit applies before the outputs are copied.
    let bytes = graph.outputs.iter().zip(outputs.values()).map(|(spec, output)| value::bytes(spec, &output));
    let bytes = bytes.fold(0, usize::saturating_add);
    if bytes > MAX_RESULT_BYTES {
        return Err(SessionError::OutputsTooLarge(bytes));
    }
    graph
        .outputs
        .iter()
        .zip(outputs.values())
        .map(|(spec, output)| value::from_ort(spec, &output).map_err(SessionError::Rejected))
        .collect()
}

/// A CUDA error ends the session: some of them persist until the process ends, and a new process shows whether this one does.
fn classify(kind: DeviceKind, reason: String) -> SessionError {
    let is_cuda_error = ["CUDA", "CUBLAS", "CUDNN"].iter().any(|word| reason.contains(word));
    if kind == DeviceKind::Cuda && is_cuda_error {
        SessionError::Crashed(reason)
    } else {
        SessionError::Rejected(reason)
    }
}
