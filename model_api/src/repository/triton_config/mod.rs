//! Triton model configuration: reads names, datatypes and shapes of tensors, labels, `max_batch_size`, formats and the batching delay
//! from `config.pbtxt`.
//!
//! `model-settings.json` overrides each field. Unsupported fields are listed in a note.
//!
//! In Triton, `dynamic_batching` decides whether requests share a batch. Here row independence decides, so the absence of
//! `dynamic_batching` changes nothing; `"batching": "off"` in `model-settings.json` does.

mod text_format;

use std::fs;
use std::path::Path;

use open_inference::Datatype;

use crate::onnx::external_data::is_contained_path;
use crate::preprocessing::Layout;
use crate::repository::read_error::describe_read_error;
use text_format::{Message, Value};

/// The file's name.
pub const FILE: &str = "config.pbtxt";

/// Largest file that is read, bytes. Triton's own examples have a few hundred bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Largest label file that is read, bytes.
const MAX_LABEL_FILE_BYTES: u64 = 16 << 20;

/// The fields of `config.pbtxt` that are used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TritonConfig {
    /// Maximum number of rows in a batch. 0 means that shapes include the batch axis, if there is one.
    pub max_batch_size: u32,
    /// How long a request waits for others, s: the delay of `dynamic_batching`.
    pub max_batch_time: f64,
    /// `input`, in the file's order.
    pub inputs: Vec<Tensor>,
    /// `output`, in the file's order.
    pub outputs: Vec<Tensor>,
    /// Paths of the fields that are not used.
    pub unused: Vec<String>,
}

/// An entry of `input` or `output`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensor {
    /// `name`.
    pub name: String,
    /// `data_type`.
    pub datatype: Option<Datatype>,
    /// `dims`, after a batch axis if `max_batch_size` is not 0.
    pub shape: Option<Vec<i64>>,
    /// `format`.
    pub layout: Option<Layout>,
    /// `label_filename`.
    pub label_file: Option<String>,
    /// The lines of that file.
    pub labels: Vec<String>,
}

/// The configuration, and the files that it was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedConfig {
    /// The parsed configuration.
    pub config: TritonConfig,
    /// Names and contents, for the model's digest.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Reads `path` and the label files that it names, which lie in its folder. The error names file and field.
pub fn read(path: &Path, model: &str) -> Result<ParsedConfig, String> {
    let bytes = read_bounded(path, MAX_BYTES).map_err(|reason| format!("{FILE}: {reason}"))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| format!("{FILE}: it is not text in UTF-8"))?;
    let mut config = TritonConfig::parse(text, model).map_err(|reason| format!("{FILE}: {reason}"))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut files = Vec::new();
    for (index, output) in config.outputs.iter_mut().enumerate() {
        let Some(file) = &output.label_file else { continue };
        let wrong = |reason: String| format!("{FILE}: output[{index}].label_filename: {reason}");
        if !is_contained_path(file) {
            return Err(wrong(format!("{file:?} is outside the model's folder")));
        }
        let labels = read_bounded(&folder.join(file), MAX_LABEL_FILE_BYTES).map_err(wrong)?;
        let text = std::str::from_utf8(&labels).map_err(|_| wrong(format!("{file:?} is not text in UTF-8")))?;
        output.labels = text.trim_end().lines().map(|line| line.trim().to_owned()).collect();
        files.push((file.clone(), labels));
    }
    files.insert(0, (FILE.to_owned(), bytes));
    Ok(ParsedConfig { config, files })
}

fn read_bounded(path: &Path, max_bytes: u64) -> Result<Vec<u8>, String> {
    let metadata = fs::metadata(path).map_err(|error| describe_read_error(path, &error))?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    if metadata.len() > max_bytes {
        return Err(format!("it has {} bytes, and at most {max_bytes} are read", metadata.len()));
    }
    fs::read(path).map_err(|error| describe_read_error(path, &error))
}

impl TritonConfig {
    /// Parses the configuration of `model`. The error begins with the line or the field.
    pub fn parse(text: &str, model: &str) -> Result<Self, String> {
        let message = Message::parse(text)?;
        let mut config = Self::default();
        let batch_size = message.last("max_batch_size").map_or(Some(0), Value::integer);
        config.max_batch_size = batch_size
            .and_then(|size| u32::try_from(size).ok())
            .ok_or("max_batch_size: a whole number from 0 on is expected")?;
        for (name, value) in &message.fields {
            match (name.as_str(), value.text()) {
                ("name", Some(found)) if found == model || found.is_empty() => {}
                ("name", found) => {
                    return Err(format!("name: {:?} is not the folder's, {model:?}", found.unwrap_or_default()));
                }
                ("max_batch_size", _)
                | ("platform", Some("onnxruntime_onnx" | ""))
                | ("backend", Some("onnxruntime" | ""))
                | ("default_model_filename", Some("model.onnx" | "")) => {}
                ("platform" | "backend", found) => {
                    let found = found.unwrap_or_default();
                    return Err(format!("{name}: {found:?} is not supported; only ONNX models (\"onnxruntime\") are"));
                }
                // A stateful model would give wrong results if it were served as a stateless one.
                ("sequence_batching" | "ensemble_scheduling", _) => {
                    return Err(format!("{name}: it is not supported; for a workflow of models, write a pipeline"));
                }
                ("dynamic_batching", _) => config.read_batching(value)?,
                ("input" | "output", _) => config.read_tensor(name, value)?,
                _ => config.note_unused(name),
            }
        }
        Ok(config)
    }

    fn note_unused(&mut self, field: &str) {
        if !self.unused.iter().any(|other| other == field) {
            self.unused.push(field.to_owned());
        }
    }

    /// The unused fields as one sentence, for the log and the repository index.
    pub fn unused_note(&self) -> Option<String> {
        (!self.unused.is_empty()).then(|| format!("{FILE}: not used: {}", self.unused.join(", ")))
    }

    fn read_batching(&mut self, value: &Value) -> Result<(), String> {
        let message = value.message().ok_or("dynamic_batching: a message in braces is expected")?;
        for (name, value) in &message.fields {
            let field = format!("dynamic_batching.{name}");
            if name == "max_queue_delay_microseconds" {
                let delay = value.integer().filter(|&delay| delay >= 0);
                let delay = delay.ok_or_else(|| format!("{field}: a whole number from 0 on is expected"))?;
                self.max_batch_time = delay as f64 / 1e6;
            } else {
                self.note_unused(&field);
            }
        }
        Ok(())
    }

    fn read_tensor(&mut self, side: &str, value: &Value) -> Result<(), String> {
        let (is_input, batched) = (side == "input", self.max_batch_size > 0);
        let index = if is_input { self.inputs.len() } else { self.outputs.len() };
        let at = |field: &str| format!("{side}[{index}].{field}");
        let message = value.message().ok_or_else(|| format!("{side}[{index}]: a message in braces is expected"))?;
        let mut tensor = Tensor::default();
        let mut unused = Vec::new();
        for (name, value) in &message.fields {
            match (name.as_str(), value.text()) {
                ("name", Some(found)) => found.clone_into(&mut tensor.name),
                // Parsed below, or Triton's default value.
                ("dims", Some(_))
                | ("data_type", Some("TYPE_INVALID"))
                | ("format", Some("FORMAT_NONE"))
                | ("label_filename", Some(""))
                | ("optional" | "is_shape_tensor" | "allow_ragged_batch" | "is_non_linear_format_io", Some("false")) => {
                }
                ("data_type", Some(found)) => {
                    let datatype =
                        datatype(found).ok_or_else(|| format!("{}: {found:?} is not supported", at(name)))?;
                    tensor.datatype = Some(datatype);
                }
                ("format", Some("FORMAT_NHWC")) if is_input => tensor.layout = Some(Layout::Nhwc),
                ("format", Some("FORMAT_NCHW")) if is_input => tensor.layout = Some(Layout::Nchw),
                ("label_filename", Some(found)) if !is_input => tensor.label_file = Some(found.to_owned()),
                ("reshape", _) => unused.extend([at(name), at("dims")]),
                _ => unused.push(at(name)),
            }
        }
        if tensor.name.is_empty() {
            return Err(format!("{}: it is missing", at("name")));
        }
        let dims: Option<Vec<i64>> = message.all("dims").map(|dim| dim.integer().filter(|&dim| dim >= -1)).collect();
        let dims = dims.ok_or_else(|| format!("{}: lengths, or -1 for any, are expected", at("dims")))?;
        if !dims.is_empty() && message.last("reshape").is_none() {
            tensor.shape = Some(if batched { std::iter::once(-1).chain(dims).collect() } else { dims });
        }
        for field in &unused {
            self.note_unused(field);
        }
        if is_input {
            self.inputs.push(tensor);
        } else {
            self.outputs.push(tensor);
        }
        Ok(())
    }
}

fn datatype(found: &str) -> Option<Datatype> {
    match found.strip_prefix("TYPE_")? {
        "STRING" => Some(Datatype::Bytes),
        "BYTES" => None,
        other => other.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENSENET: &str = r#"
        name: "densenet"
        platform: "onnxruntime_onnx"
        max_batch_size: 8
        input [ { name: "data_0" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 224, 224 ] } ]
        output [ { name: "fc6_1" data_type: TYPE_FP32 dims: [ 1000 ] label_filename: "labels.txt" reshape { shape: [ 1, 1000 ] } } ]
        dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 2500 }
        instance_group [ { count: 2 kind: KIND_GPU } ]
        version_policy: { all {} }
    "#;

    #[test]
    fn used_fields_are_parsed_and_other_fields_are_listed() {
        let config = TritonConfig::parse(DENSENET, "densenet").unwrap();
        assert_eq!((config.max_batch_size, config.max_batch_time), (8, 0.0025));
        let [input] = config.inputs.as_slice() else { panic!("{config:?}") };
        assert_eq!((input.datatype, input.layout), (Some(Datatype::Fp32), Some(Layout::Nchw)));
        assert_eq!(input.shape.as_deref(), Some(&[-1, 3, 224, 224][..]));
        assert_eq!(config.outputs[0].label_file.as_deref(), Some("labels.txt"));
        assert_eq!(config.outputs[0].shape, None, "its dims are not the graph's");
        assert_eq!(
            config.unused_note().unwrap(),
            "config.pbtxt: not used: output[0].reshape, output[0].dims, dynamic_batching.preferred_batch_size, \
             instance_group, version_policy"
        );
        let whole = TritonConfig::parse("input { name: \"x\" dims: [4, -1] }", "m").unwrap();
        assert_eq!((whole.inputs[0].shape.as_deref(), whole.unused_note()), (Some(&[4, -1][..]), None));
    }

    #[test]
    fn an_error_names_its_field() {
        for (text, words) in [
            ("name: \"other\"", "name: \"other\" is not the folder's, \"m\""),
            ("max_batch_size: many", "max_batch_size: a whole number"),
            ("max_batch_size: -1", "max_batch_size: a whole number"),
            ("backend: \"tensorrt\"", "backend: \"tensorrt\" is not supported"),
            ("sequence_batching {}", "sequence_batching: it is not supported"),
            ("input { dims: 1 }", "input[0].name: it is missing"),
            ("input: 5", "input[0]: a message in braces is expected"),
            ("input { name: \"x\" dims: [ a ] }", "input[0].dims: lengths"),
            ("output { name: \"y\" data_type: TYPE_FP8 }", "output[0].data_type: \"TYPE_FP8\" is not supported"),
            (
                "dynamic_batching { max_queue_delay_microseconds: -5 }",
                "dynamic_batching.max_queue_delay_microseconds: a",
            ),
        ] {
            let error = TritonConfig::parse(text, "m").unwrap_err();
            assert!(error.starts_with(words), "{text}: {error}");
        }
    }
}
