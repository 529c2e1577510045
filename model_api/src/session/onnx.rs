//! ONNX Runtime itself, through `ort`. Only a child process gets here.

use std::path::Path;

use contract::Device;
use open_inference::{Datatype, Element, Tensor, TensorMetadata, byte_length, with_element};
use ort::environment::Environment;
use ort::ep;
use ort::ep::ExecutionProvider;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, Outlet, TensorElementType, ValueType};

use super::device::{self, Kind, Opened, without_paths};
use super::frame::Load;
use super::{Hello, SessionError, StartError};

/// A model, open and warm.
pub struct Onnx {
    session: Session,
    kind: Kind,
    inputs: Vec<TensorMetadata>,
    outputs: Vec<TensorMetadata>,
}

impl Onnx {
    /// Loads the library, opens the model where it is wished for and runs it once with zeros.
    pub fn open(load: &Load) -> Result<(Self, Hello), StartError> {
        let environment = environment(&load.library).map_err(StartError::Model)?;
        let library_knows_cuda = ep::CUDA::is_available().unwrap_or(false);
        let Opened { model, kind, stepped_down } = device::open(load.device, library_knows_cuda, |kind| {
            let mut model = Self::open_on(&environment, load, kind)?;
            model.warm_up(load).map_err(|reason| format!("the first run failed: {reason}"))?;
            Ok(model)
        })?;
        let device = Device { name: kind.name().to_owned(), stepped_down, runtime: version(&load.library) };
        let hello = Hello { inputs: model.inputs.clone(), outputs: model.outputs.clone(), device };
        Ok((model, hello))
    }

    fn open_on(environment: &Environment, load: &Load, kind: Kind) -> Result<Self, String> {
        let builder = Session::builder(environment).map_err(said)?;
        let mut builder = options(builder, load.threads, kind).map_err(said)?;
        let session = builder.commit_from_file(&load.graph).map_err(said)?;
        let inputs = specs("input", session.inputs())?;
        let outputs = specs("output", session.outputs())?;
        Ok(Self { session, kind, inputs, outputs })
    }

    fn warm_up(&mut self, load: &Load) -> Result<(), String> {
        let zeros = |spec: &TensorMetadata| {
            let shape = load.shapes.get(&spec.name).unwrap_or(&spec.shape);
            let shape: Vec<usize> = shape.iter().map(|&length| usize::try_from(length).unwrap_or(1)).collect();
            let bytes = byte_length(&shape, spec.datatype.size().unwrap_or(4))
                .ok_or_else(|| format!("input {:?} is too large: {shape:?}", spec.name))?;
            Ok(Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data: vec![0; bytes].into() })
        };
        let inputs = self.inputs.iter().map(zeros).collect::<Result<Vec<_>, String>>()?;
        match self.run(&inputs) {
            Ok(_) => Ok(()),
            Err(SessionError::Refused(reason) | SessionError::Died(reason)) => Err(reason),
        }
    }

    /// Runs the model once.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, SessionError> {
        let inputs: Vec<(&str, SessionInputValue)> = inputs
            .iter()
            .map(|tensor| Ok((tensor.name.as_str(), value(tensor)?)))
            .collect::<Result<_, String>>()
            .map_err(SessionError::Refused)?;
        let kind = self.kind;
        let outputs = self.session.run(inputs).map_err(|error| failure(kind, said(error)))?;
        self.outputs
            .iter()
            .zip(outputs.values())
            .map(|(spec, value)| tensor(spec, &value).map_err(SessionError::Refused))
            .collect()
    }
}

fn environment(library: &Path) -> Result<Environment, String> {
    let builder = ort::init_from(library).map_err(|error| without_paths(&error.to_string()))?;
    builder.with_name("mlserve").with_telemetry(false).build().map_err(said)
}

#[allow(clippy::result_large_err, reason = "ort gives the builder back with the error")]
fn options(builder: SessionBuilder, threads: usize, kind: Kind) -> Result<SessionBuilder, ort::Error<SessionBuilder>> {
    let builder = builder
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
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

fn specs(side: &str, outlets: &[Outlet]) -> Result<Vec<TensorMetadata>, String> {
    outlets
        .iter()
        .map(|outlet| {
            let (datatype, shape) = match outlet.dtype() {
                ValueType::Tensor { ty, shape, .. } => (datatype(*ty), shape),
                _ => return Err(format!("{side} {:?} is no tensor", outlet.name())),
            };
            let datatype = datatype.ok_or_else(|| {
                format!("{side} {:?} has the element type {}, which is not served", outlet.name(), outlet.dtype())
            })?;
            Ok(TensorMetadata::new(outlet.name(), datatype, shape))
        })
        .collect()
}

fn datatype(element: TensorElementType) -> Option<Datatype> {
    Some(match element {
        TensorElementType::Bool => Datatype::Bool,
        TensorElementType::Uint8 => Datatype::Uint8,
        TensorElementType::Uint16 => Datatype::Uint16,
        TensorElementType::Uint32 => Datatype::Uint32,
        TensorElementType::Uint64 => Datatype::Uint64,
        TensorElementType::Int8 => Datatype::Int8,
        TensorElementType::Int16 => Datatype::Int16,
        TensorElementType::Int32 => Datatype::Int32,
        TensorElementType::Int64 => Datatype::Int64,
        TensorElementType::Float16 => Datatype::Fp16,
        TensorElementType::Bfloat16 => Datatype::Bf16,
        TensorElementType::Float32 => Datatype::Fp32,
        TensorElementType::Float64 => Datatype::Fp64,
        TensorElementType::String => Datatype::Bytes,
        _ => return None,
    })
}

fn value(tensor: &Tensor) -> Result<SessionInputValue<'static>, String> {
    with_element!(tensor.datatype, T => {
        let elements: Vec<T> = tensor.elements().collect();
        ort::value::Tensor::from_array((tensor.shape.clone(), elements)).map(Into::into).map_err(said)
    }, bytes => Err("strings are not served yet".to_owned()))
}

fn tensor(spec: &TensorMetadata, value: &DynValue) -> Result<Tensor, String> {
    with_element!(spec.datatype, T => {
        let (shape, elements) = value.try_extract_tensor::<T>().map_err(said)?;
        let mut data = Vec::with_capacity(size_of_val(elements));
        for element in elements {
            element.write(&mut data);
        }
        let shape = shape.iter().map(|&length| length as usize).collect();
        Ok(Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data: data.into() })
    }, bytes => Err("strings are not served yet".to_owned()))
}

/// Some CUDA errors stick to a process until it ends; none is worth the question which. A fresh process will tell.
fn failure(kind: Kind, reason: String) -> SessionError {
    let blames_cuda = ["CUDA", "CUBLAS", "CUDNN"].iter().any(|word| reason.contains(word));
    if kind == Kind::Cuda && blames_cuda { SessionError::Died(reason) } else { SessionError::Refused(reason) }
}

#[allow(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn said<R>(error: ort::Error<R>) -> String {
    without_paths(error.message())
}
