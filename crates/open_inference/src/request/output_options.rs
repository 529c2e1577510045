//! Output options: which outputs to return, and in which encoding.

use std::collections::HashSet;
use std::time::Duration;

use service::request_id::new_request_id;

use super::validate::tensor_names;
use crate::codec::{binary, content_type};
use crate::error::Error;
use crate::truncate::quoted;
use crate::types::{ContentType, Datatype, ModelMetadata, Parameter, Parameters, RequestedOutput, TensorMetadata};

/// Maximum length of `id` in bytes. Every response repeats it.
pub(crate) const MAX_ID_BYTES: usize = 1024;

/// Requested outputs and their encoding, validated against the model's signature before the model runs.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputOptions {
    /// Request ID that the client chose, or a generated one.
    pub id: String,
    /// Timeout of the request, which it gives in microseconds.
    pub timeout: Option<Duration>,
    pub(crate) outputs: Vec<OutputRequest>,
}

/// A requested output.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OutputRequest {
    pub name: String,
    pub encoding: OutputEncoding,
    pub binary: bool,
}

/// Encoding of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputEncoding {
    /// The model's tensor, and the content type to announce to MLServer's clients.
    Plain(Option<ContentType>),
    /// The top classes of each row.
    Classification(usize),
    /// One PNG per row.
    Image,
    /// Each element as base64.
    Base64,
    /// Each element as ISO 8601 text.
    Datetime,
}

impl OutputOptions {
    pub(crate) fn parse(
        id: Option<String>,
        parameters: &Parameters,
        outputs: &[RequestedOutput],
        model: &ModelMetadata,
    ) -> Result<Self, Error> {
        let binary = bool_parameter(parameters, binary::BINARY_DATA_OUTPUT)?.unwrap_or(false);
        // As in MLServer: a client that sends plain tensors receives plain tensors.
        let is_raw = content_type::parse_content_type(parameters)? == Some(ContentType::Np);
        let default_encoding = |output: &TensorMetadata| {
            if is_raw { OutputEncoding::Plain(None) } else { OutputEncoding::from_metadata(output) }
        };
        let outputs = if outputs.is_empty() {
            let all = |output: &TensorMetadata| OutputRequest {
                name: output.name.clone(),
                encoding: default_encoding(output),
                binary,
            };
            model.outputs.iter().map(all).collect()
        } else {
            let mut seen = HashSet::new();
            for output in outputs {
                if !seen.insert(&output.name) {
                    return Err(Error::malformed(format!("output {} is requested twice", quoted(&output.name))));
                }
            }
            outputs
                .iter()
                .map(|output| OutputRequest::parse(output, binary, default_encoding, model))
                .collect::<Result<_, _>>()?
        };
        if id.as_ref().is_some_and(|id| id.len() > MAX_ID_BYTES) {
            return Err(Error::malformed(format!("the id has more than {MAX_ID_BYTES} bytes")));
        }
        let id = id.filter(|id| !id.is_empty()).unwrap_or_else(|| new_request_id().to_string());
        Ok(Self { id, timeout: timeout_parameter(parameters)?, outputs })
    }

    /// Selects a single output, as an image.
    pub(crate) fn select_image(&mut self, output: &TensorMetadata) -> Result<(), Error> {
        OutputEncoding::Image.check_compatible(output)?;
        self.outputs = vec![OutputRequest { name: output.name.clone(), encoding: OutputEncoding::Image, binary: true }];
        Ok(())
    }

    /// Returns all outputs in the JSON, without binary data.
    pub(crate) fn disable_binary(&mut self) {
        self.outputs.iter_mut().for_each(|output| output.binary = false);
    }

    /// Whether the output is requested.
    pub(crate) fn includes(&self, output: &TensorMetadata) -> bool {
        self.outputs.iter().any(|requested| requested.name == output.name)
    }
}

impl OutputRequest {
    fn parse(
        output: &RequestedOutput,
        all_binary: bool,
        default_encoding: impl Fn(&TensorMetadata) -> OutputEncoding,
        model: &ModelMetadata,
    ) -> Result<Self, Error> {
        let RequestedOutput { name, parameters } = output;
        let unknown = || {
            let available = tensor_names(&model.outputs);
            Error::unprocessable(format!(
                "model {:?} has no output {}; its outputs are {available}",
                model.name,
                quoted(name)
            ))
        };
        let metadata = model.outputs.iter().find(|output| output.name == *name).ok_or_else(unknown)?;
        // The client would read shared memory, which is never written.
        if parameters.contains_key("shared_memory_region") {
            return Err(Error::malformed(format!(
                "output {name:?} is requested in shared memory, which is not supported"
            )));
        }
        let encoding = match (class_count(name, parameters)?, content_type::parse_content_type(parameters)?) {
            (Some(_), Some(_)) => {
                return Err(Error::malformed(format!(
                    "output {name:?} is requested both as classes and with a content type"
                )));
            }
            (Some(count), None) => OutputEncoding::Classification(count),
            (None, Some(content_type)) => OutputEncoding::from_content_type(content_type),
            (None, None) => default_encoding(metadata),
        };
        encoding.check_compatible(metadata)?;
        let binary = bool_parameter(parameters, binary::BINARY_DATA)?.unwrap_or(all_binary);
        Ok(Self { name: name.clone(), encoding, binary })
    }
}

impl OutputEncoding {
    /// Encoding according to the settings, where it is compatible with the datatype.
    pub(crate) fn from_metadata(output: &TensorMetadata) -> Self {
        let encoding = output.parameters.content_type.map_or(Self::Plain(None), Self::from_content_type);
        if encoding.check_compatible(output).is_ok() { encoding } else { Self::Plain(None) }
    }

    fn from_content_type(content_type: ContentType) -> Self {
        match content_type {
            ContentType::Image => Self::Image,
            ContentType::Base64 => Self::Base64,
            ContentType::Datetime => Self::Datetime,
            plain => Self::Plain(Some(plain)),
        }
    }

    fn check_compatible(self, output: &TensorMetadata) -> Result<(), Error> {
        let datatype = output.datatype;
        let (is_compatible, description) = match self {
            Self::Plain(Some(ContentType::Str)) => (datatype == Datatype::Bytes, "text"),
            Self::Plain(_) => return Ok(()),
            Self::Base64 => (datatype == Datatype::Bytes, "base64"),
            Self::Classification(_) => (datatype != Datatype::Bytes, "classes"),
            Self::Image => (datatype != Datatype::Bytes, "an image"),
            Self::Datetime => (matches!(datatype, Datatype::Bytes | Datatype::Int64 | Datatype::Fp64), "dates"),
        };
        if is_compatible {
            Ok(())
        } else {
            Err(Error::unprocessable(format!(
                "output {:?} is {datatype}; it cannot be returned as {description}",
                output.name
            )))
        }
    }
}

fn class_count(name: &str, parameters: &Parameters) -> Result<Option<usize>, Error> {
    let Some(count) = parameters.get("classification") else { return Ok(None) };
    // Triton's clients send 0 to disable classification.
    if *count == Parameter::Int(0) {
        return Ok(None);
    }
    let count = count.as_u64().and_then(|count| usize::try_from(count).ok());
    count
        .map(Some)
        .ok_or_else(|| Error::malformed(format!("classification of output {name:?} is not a number of classes")))
}

fn bool_parameter(parameters: &Parameters, name: &str) -> Result<Option<bool>, Error> {
    let Some(value) = parameters.get(name) else { return Ok(None) };
    value.as_bool().map(Some).ok_or_else(|| Error::malformed(format!("{name} is not a boolean")))
}

fn timeout_parameter(parameters: &Parameters) -> Result<Option<Duration>, Error> {
    let Some(value) = parameters.get("timeout") else { return Ok(None) };
    // Triton's clients send a number, its REST examples also a string.
    let micros = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let micros = micros.ok_or_else(|| Error::malformed("timeout is not a number of microseconds"))?;
    Ok((micros > 0).then(|| Duration::from_micros(micros)))
}
