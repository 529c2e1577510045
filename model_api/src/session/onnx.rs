//! ONNX Runtime itself, through `ort`. Only a child process gets here.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use contract::Device;
use open_inference::Tensor;
use ort::environment::Environment;
use ort::ep;
use ort::ep::ExecutionProvider;
use ort::logging::LogLevel;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionInputValue};
use tracing::warn;

use super::device::{self, Kind, Opened};
use super::frame::Load;
use super::graph::Graph;
use super::sizes::{Filled, common_rows};
use super::words::for_callers;
use super::{Hello, MAX_RESULT_BYTES, SessionError, StartError, value, warm_up};
use crate::analysis::{self, GraphFacts, training};
use crate::onnx_file::Model;
use crate::repository::is_ort;
use crate::unreadable::unreadable;
use crate::{digest, external_data};

/// A model, open and warm.
pub struct Onnx {
    session: Session,
    /// For batches of one size each, by their rows.
    sized: BTreeMap<usize, Session>,
    environment: Environment,
    load: Load,
    kind: Kind,
    graph: Graph,
    options: Arc<Options>,
}

/// The outputs that are served, and no others: what is made for the rest alone is not computed. And the flag that ends a run.
struct Options {
    run: RunOptions<HasSelectedOutputs>,
    is_set: AtomicBool,
}

// SAFETY: `ort` has options with selected outputs in one thread only, since outputs that were allocated beforehand would be
// written to by several. There are none here, and ONNX Runtime has the flag set from any thread (`RunOptionsSetTerminate`).
#[allow(unsafe_code, reason = "the type system cannot know that no output is allocated beforehand")]
unsafe impl Sync for Options {}

/// Ends the run that is under way, from another thread.
#[derive(Clone)]
pub struct Interrupt(Arc<Options>);

impl Interrupt {
    /// Ends the run that is under way, or the next one, before its next operator.
    pub fn set(&self) {
        self.0.is_set.store(true, Ordering::SeqCst);
        // A flag that cannot be set is a run that does not listen, and its process is killed.
        let _ = self.0.run.terminate();
    }

    /// Lets runs run again.
    pub fn clear(&self) {
        if self.0.is_set.swap(false, Ordering::SeqCst) {
            let _ = self.0.run.unterminate();
        }
    }
}

impl Onnx {
    /// Loads the library, opens the model where it is wished for and runs it once.
    pub fn open(load: &Load) -> Result<(Self, Hello), StartError> {
        let environment = environment(&load.library).map_err(StartError::Model)?;
        let library_knows_cuda = ep::CUDA::is_available().unwrap_or(false);
        let Opened { model, kind, fallback_reason } =
            device::open(load.device, device::machine_has_card(), library_knows_cuda, |kind| {
                let mut model = Self::open_on(&environment, load, kind)?;
                model.warm_up()?;
                Ok(model)
            })?;
        let device = Device { name: kind.name().to_owned(), fallback_reason, runtime: version(&load.library) };
        let Graph { inputs, outputs, left_out } = &model.graph;
        let (inputs, outputs, left_out) = (inputs.clone(), outputs.clone(), left_out.clone());
        let facts = facts(&load.graph);
        Ok((model, Hello { inputs, outputs, left_out, device, facts }))
    }

    fn open_on(environment: &Environment, load: &Load, kind: Kind) -> Result<Self, String> {
        let session = open_session(environment, load, kind)?;
        let graph = Graph::read(&session)?;
        let served = graph.outputs.iter().fold(OutputSelector::no_default(), |all, output| all.with(&output.name));
        let run = RunOptions::new().map_err(said)?.with_outputs(served);
        let options = Arc::new(Options { run, is_set: AtomicBool::new(false) });
        let (environment, load) = (environment.clone(), load.clone());
        Ok(Self { session, sized: BTreeMap::new(), environment, load, kind, graph, options })
    }

    fn warm_up(&mut self) -> Result<(), String> {
        let load = &self.load;
        let inputs: Vec<Tensor> =
            self.graph.required().iter().map(|input| warm_up::input(input, load)).collect::<Result<_, _>>()?;
        let failed = |reason| Err(format!("the first run failed: {reason}"));
        let reason = match self.run(&inputs) {
            Ok(_) => return Ok(()),
            Err(SessionError::Died(reason)) => return failed(reason),
            Err(SessionError::GivenUp) => return failed("it was ended".to_owned()),
            Err(SessionError::OutOfMemory(exceeded)) => return failed(exceeded.to_string()),
            Err(SessionError::TooLarge(bytes)) => return failed(format!("its outputs have {bytes} bytes")),
            Err(SessionError::Refused(reason)) => reason,
        };
        // Inputs that were guessed may be ones that this model refuses with good reason, and it may answer every real one.
        // On CUDA it is the CPU that tells such a model from a device that does not work: it must refuse them as well.
        let is_the_models = || match self.kind {
            Kind::Cpu => true,
            Kind::Cuda => Self::open_on(&self.environment, &self.load, Kind::Cpu)
                .is_ok_and(|mut on_cpu| matches!(on_cpu.run(&inputs), Err(SessionError::Refused(_)))),
        };
        if warm_up::is_guessed(self.graph.required(), &self.load) && is_the_models() {
            warn!(reason, "the model refuses its first run, whose inputs were guessed; it is served all the same");
            return Ok(());
        }
        failed(reason)
    }

    /// What ends its runs from another thread.
    pub fn interrupt(&self) -> Interrupt {
        Interrupt(Arc::clone(&self.options))
    }

    /// Keeps a session for batches of so many rows.
    pub fn keep_size(&mut self, rows: usize) -> Result<(), String> {
        let session = open_session(&self.environment, &self.load, self.kind)?;
        self.sized.insert(rows, session);
        Ok(())
    }

    /// Runs the model once: on the session for the smallest size that is large enough, where there is one. Inputs that are
    /// optional need not have a batch axis, so a batch that gives any is not filled up.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, SessionError> {
        let Self { session, sized, graph, options, kind, .. } = self;
        let rows = common_rows(inputs).filter(|_| inputs.len() == graph.required().len()).unwrap_or(usize::MAX);
        if let Some((&size, session)) = sized.range_mut(rows..).next() {
            let Some(filled) = Filled::new(inputs, size) else { return run(session, *kind, graph, options, inputs) };
            match run(session, *kind, graph, options, &filled.inputs) {
                Ok(outputs) => {
                    if let Some(outputs) = filled.cut(&outputs) {
                        return Ok(outputs);
                    }
                }
                // Of rows that nobody asked for nobody is to hear.
                Err(SessionError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        run(session, *kind, graph, options, inputs)
    }
}

fn open_session(environment: &Environment, load: &Load, kind: Kind) -> Result<Session, String> {
    let builder = Session::builder(environment).map_err(said)?;
    let builder = options(builder, load.threads, kind).map_err(said)?;
    let builder = match graph_of(&load.graph).filter(training::is_in) {
        Some(model) => {
            if let Some(name) = training::overwritten(&model) {
                return Err(format!(
                    "BatchNormalization in training mode overwrites the initializer {name:?}, which is also used elsewhere, so \
                     that each run would change the results of the next; export the model in inference mode"
                ));
            }
            builder.with_disabled_optimizers("ConstantSharing").map_err(said)?
        }
        None => builder,
    };
    with_data_files(builder, &load.graph)?.commit_from_file(&load.graph).map_err(said)
}

/// What the graph shows before it has run. The session has been opened from this file, so it can be read; one of ONNX
/// Runtime's own format shows nothing.
fn facts(graph: &Path) -> GraphFacts {
    graph_of(graph).map(|model| analysis::analyse(&model)).unwrap_or_default()
}

/// `None` for a file of ONNX Runtime's own format, and for one that cannot be read.
fn graph_of(graph: &Path) -> Option<Model> {
    if is_ort(graph) {
        return None;
    }
    Model::read(fs::read(graph).ok()?.into()).ok()
}

fn run(
    session: &mut Session,
    kind: Kind,
    graph: &Graph,
    options: &Options,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>, SessionError> {
    let inputs: Vec<(&str, SessionInputValue)> = inputs
        .iter()
        .map(|tensor| Ok((tensor.name.as_str(), value::to_ort(tensor)?)))
        .collect::<Result<_, String>>()
        .map_err(SessionError::Refused)?;
    let failed = |error| match failure(kind, said(error)) {
        // Whatever it says of it: it would not have failed by itself.
        SessionError::Refused(_) if options.is_set.load(Ordering::SeqCst) => SessionError::GivenUp,
        failure => failure,
    };
    let outputs = session.run_with_options(inputs, &options.run).map_err(failed)?;
    // Before they are copied.
    let bytes = graph.outputs.iter().zip(outputs.values()).map(|(spec, output)| value::bytes(spec, &output));
    let bytes = bytes.fold(0, usize::saturating_add);
    if bytes > MAX_RESULT_BYTES {
        return Err(SessionError::TooLarge(bytes));
    }
    graph
        .outputs
        .iter()
        .zip(outputs.values())
        .map(|(spec, output)| value::from_ort(spec, &output).map_err(SessionError::Refused))
        .collect()
}

/// Reads the files in which the graph keeps tensors. ONNX Runtime by itself maps them into memory: who then overwrites one
/// in place would change the model that is served, under its old digest, or end it by making the file shorter. Tensors of
/// a graph within the graph, as of an `If`, are mapped even so.
fn with_data_files(mut builder: SessionBuilder, graph: &Path) -> Result<SessionBuilder, String> {
    if is_ort(graph) {
        return Ok(builder);
    }
    let onnx = fs::read(graph).map_err(|error| unreadable(graph, &error))?;
    for location in external_data::locations(onnx.into())? {
        let mut data = Vec::new();
        let read = digest::open_data(graph, &location).and_then(|mut file| file.read_to_end(&mut data));
        read.map_err(|error| unreadable(Path::new(&location), &error))?;
        builder = builder.with_external_initializer_file_in_memory(location, data.into()).map_err(said)?;
    }
    Ok(builder)
}

fn environment(library: &Path) -> Result<Environment, String> {
    let builder = ort::init_from(library).map_err(|error| for_callers(&error.to_string()))?;
    builder.with_name("mlserve").with_telemetry(false).build().map_err(said)
}

#[allow(clippy::result_large_err, reason = "ort gives the builder back with the error")]
fn options(builder: SessionBuilder, threads: usize, kind: Kind) -> Result<SessionBuilder, ort::Error<SessionBuilder>> {
    let builder = builder
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        // Whatever it would log of a run that it refuses, with paths and colours, is in the error already.
        .with_log_level(LogLevel::Fatal)?
        // Spinning threads would take the cores from the web server that waits for them.
        .with_intra_op_spinning(false)?;
    match kind {
        Kind::Cpu => Ok(builder),
        Kind::Cuda => {
            let cuda = ep::CUDA::default()
                // Doubling arenas take memory that other models' sessions on the same card need.
                .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
                // Trying every algorithm anew for each new batch size costs seconds.
                .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
                // The same answers as on the CPU, not ten bits of them.
                .with_tf32(false);
            builder.with_execution_providers([cuda.build().error_on_failure()])
        }
    }
}

/// The wheel's library carries its version in its file name, and `ort` keeps the library's own word to itself.
fn version(library: &Path) -> String {
    let name = library.canonicalize().unwrap_or_else(|_| library.to_owned());
    let name = name.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split_once(".so.").map_or("unknown", |(_, version)| version).to_owned()
}

/// Some CUDA errors stick to a process until it ends; none is worth the question which. A fresh process will tell.
fn failure(kind: Kind, reason: String) -> SessionError {
    let blames_cuda = ["CUDA", "CUBLAS", "CUDNN"].iter().any(|word| reason.contains(word));
    if kind == Kind::Cuda && blames_cuda { SessionError::Died(reason) } else { SessionError::Refused(reason) }
}

/// What ONNX Runtime says, without paths.
#[allow(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
pub fn said<R>(error: ort::Error<R>) -> String {
    for_callers(error.message().trim_end())
}
