//! Construction of ONNX Runtime sessions: library, session options, model files.

use std::fs;
use std::io::Read;
use std::path::Path;

use ort::environment::Environment;
use ort::ep;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use super::sanitize_error::{error_text, sanitize};
use crate::onnx::analysis::training_mode;
use crate::onnx::external_data;
use crate::onnx::proto::Model;
use crate::repository::is_ort;
use crate::repository::read_error::describe_read_error;
use crate::session::frame::LoadRequest;
use crate::session::info::DeviceKind;

/// Loads the ONNX Runtime library.
pub fn environment(library: &Path) -> Result<Environment, String> {
    let builder = ort::init_from(library).map_err(|error| sanitize(&error.to_string()))?;
    builder.with_name("mlserve").with_telemetry(false).build().map_err(error_text)
}

/// Opens the model on a device.
pub fn open_session(environment: &Environment, load: &LoadRequest, kind: DeviceKind) -> Result<Session, String> {
    let builder = Session::builder(environment).map_err(error_text)?;
    let builder = configure(builder, load.threads, kind).map_err(error_text)?;
    let builder = match read_graph(&load.graph).filter(training_mode::is_used) {
        Some(model) => {
            if let Some(name) = training_mode::overwritten_initializer(&model) {
                return Err(format!(
                    "BatchNormalization in training mode overwrites the initializer {name:?}, which is also used elsewhere, so \
                     that each run would change the results of the next; export the model in inference mode"
                ));
            }
            builder.with_disabled_optimizers("ConstantSharing").map_err(error_text)?
        }
        None => builder,
    };
    with_data_files(builder, &load.graph)?.commit_from_file(&load.graph).map_err(error_text)
}

/// The parsed ONNX file. `None` for a file in ONNX Runtime's own format, and for an unreadable file.
pub fn read_graph(graph: &Path) -> Option<Model> {
    if is_ort(graph) {
        return None;
    }
    Model::parse(fs::read(graph).ok()?.into()).ok()
}

/// The version of the library. The wheel's library has it in its file name, and `ort` does not expose the library's own
/// version string.
pub fn library_version(library: &Path) -> String {
    let name = library.canonicalize().unwrap_or_else(|_| library.to_owned());
    let name = name.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split_once(".so.").map_or("unknown", |(_, version)| version).to_owned()
}

#[allow(clippy::result_large_err, reason = "ort returns the builder with the error")]
fn configure(
    builder: SessionBuilder,
    threads: usize,
    kind: DeviceKind,
) -> Result<SessionBuilder, ort::Error<SessionBuilder>> {
    let builder = builder
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        // The error already has what ONNX Runtime would log about a rejected run, there with paths and colours.
        .with_log_level(LogLevel::Fatal)?
        // Spinning threads would take the cores from the web server, which waits for them.
        .with_intra_op_spinning(false)?;
    match kind {
        DeviceKind::Cpu => Ok(builder),
        DeviceKind::Cuda => {
            let cuda = ep::CUDA::default()
                // Doubling arenas would take memory that the sessions of other models on the GPU need.
                .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
                // An exhaustive search for each new batch size would take seconds.
                .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
                // Results match those of the CPU. TF32 has a mantissa of ten bits.
                .with_tf32(false);
            builder.with_execution_providers([cuda.build().error_on_failure()])
        }
    }
}

/// Adds the external data files of the graph, read into memory. ONNX Runtime would map them instead. A file that is overwritten
/// in place would then change the served model under its old digest, and a truncated file would crash it. Tensors of subgraphs,
/// for example of an `If`, are mapped nevertheless.
fn with_data_files(mut builder: SessionBuilder, graph: &Path) -> Result<SessionBuilder, String> {
    if is_ort(graph) {
        return Ok(builder);
    }
    let onnx = fs::read(graph).map_err(|error| describe_read_error(graph, &error))?;
    for location in external_data::locations_in_file(onnx.into())? {
        let mut data = Vec::new();
        let read = external_data::open(graph, &location).and_then(|mut file| file.read_to_end(&mut data));
        read.map_err(|error| describe_read_error(Path::new(&location), &error))?;
        builder = builder.with_external_initializer_file_in_memory(location, data.into()).map_err(error_text)?;
    }
    Ok(builder)
}
