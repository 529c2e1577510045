//! Typed results: converts an inference by the task of one of its outputs.
//!
//! The output is selected by task and labels, never by position. Without a task, all outputs are returned as
//! tensors: a class is never guessed.

mod classes;
mod error;
mod images;
mod output;
mod rows;
mod select_output;
mod top_k;
mod values;

use open_inference::{Inference, Provenance, Task, TensorMetadata, outputs_to_json};
use serde::Serialize;
use serde_json::value::RawValue;

pub use classes::{ClassScore, Classification, LabelScore, MultiLabel, PresentLabels, Scale, TopClass};
pub use error::PredictionError;
pub use images::{ClassShare, Image, MAX_JSON_IMAGE_BYTES, Png, Segmentation};
pub use output::MAX_JSON_TENSOR_BYTES;
pub use top_k::{InvalidTopK, TopK};
pub use values::{Embedding, Number, Regression, Values};

use output::Output;
use select_output::{select_output, task_and_output};

/// A typed result of an inference.
#[derive(Clone, Debug)]
pub struct Prediction<'a> {
    /// Model that computed the result.
    pub model: &'a str,
    /// Version of the model.
    pub version: &'a str,
    /// Task of the result.
    pub task: Task,
    /// Output of the result. `None` if the result is all outputs as tensors.
    pub output: Option<&'a str>,
    /// Typed result.
    pub result: TypedResult<'a>,
    /// Digest of the model, device and times.
    pub provenance: &'a Provenance,
}

/// Result by task. Its fields are fields of the JSON response.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum TypedResult<'a> {
    /// One of several classes.
    Classification(Classification<'a>),
    /// Any number of several classes.
    MultiLabel(MultiLabel<'a>),
    /// A number or several.
    Regression(Regression<'a>),
    /// A vector.
    Embedding(Embedding),
    /// An image.
    Image(Image),
    /// A class for each pixel.
    Segmentation(Segmentation<'a>),
    /// Detections, and all other results: all outputs as tensors.
    Tensors(Tensors),
}

impl TypedResult<'_> {
    /// Images of the result, one per row. Empty for other tasks.
    pub fn images(&self) -> &[Png] {
        let (Self::Image(Image { image, rows }) | Self::Segmentation(Segmentation { image, rows, .. })) = self else {
            return &[];
        };
        rows.as_deref().unwrap_or(image.as_slice())
    }
}

/// All outputs as tensors in the JSON of the Open Inference Protocol.
#[derive(Clone, Debug, Serialize)]
pub struct Tensors {
    /// `[{"name", "datatype", "shape", "data"}]`, in the order of the graph.
    pub outputs: Box<RawValue>,
}

impl<'a> Prediction<'a> {
    /// Converts `inference`, a result of a model with these `outputs`.
    pub fn from_inference(
        inference: &'a Inference,
        outputs: &'a [TensorMetadata],
        top_k: TopK,
    ) -> Result<Self, PredictionError> {
        Self::convert(inference, outputs, top_k, true)
    }

    /// Task and output of results of a model with these outputs. The output is `None` if all outputs are the result.
    pub fn task(outputs: &[TensorMetadata]) -> (Task, Option<&TensorMetadata>) {
        task_and_output(outputs)
    }

    /// Converts `inference`, whose model has changed since `outputs` was read: classes have indices instead of labels.
    pub fn from_inference_unlabelled(
        inference: &'a Inference,
        outputs: &'a [TensorMetadata],
        top_k: TopK,
    ) -> Result<Self, PredictionError> {
        Self::convert(inference, outputs, top_k, false)
    }

    fn convert(
        inference: &'a Inference,
        outputs: &'a [TensorMetadata],
        top_k: TopK,
        labelled: bool,
    ) -> Result<Self, PredictionError> {
        let (task, output, result) = if let Some((task, metadata, tensor)) = select_output(&inference.outputs, outputs)
        {
            let labels = if labelled { metadata.parameters.labels.as_slice() } else { &[] };
            let output = Output { tensor, metadata, labels };
            (task, Some(metadata.name.as_str()), output.decode(task, top_k)?)
        } else {
            let task = Some(task_and_output(outputs).0).filter(|&task| task == Task::Detection);
            (task.unwrap_or(Task::None), None, all_outputs(inference, outputs)?)
        };
        let Inference { model, version, provenance, .. } = inference;
        Ok(Self { model, version, task, output, result, provenance })
    }

    /// Result for legacy clients, whose models were all classifiers: index and value of the class of row 0.
    ///
    /// If the task of every output is unknown, this is the largest value of row 0 of the first output, provided that
    /// the row has at least two floating-point numbers. Results of any other known task are rejected.
    pub fn first_row_class(
        inference: &'a Inference,
        outputs: &'a [TensorMetadata],
    ) -> Result<(usize, f32), PredictionError> {
        let not_a_classifier = || PredictionError::NotAClassifier { model: inference.model.clone() };
        match select_output(&inference.outputs, outputs) {
            Some((Task::Classification, metadata, tensor)) => {
                let TypedResult::Classification(Classification { top: Some(top), .. }) =
                    (Output { tensor, metadata, labels: &[] }).decode(Task::Classification, TopK::Default)?
                else {
                    return Err(not_a_classifier());
                };
                Ok((top.cls, top.value))
            }
            Some((Task::MultiLabel, metadata, tensor)) => (Output { tensor, metadata, labels: &[] })
                .first_row_argmax()
                .and_then(|top| top.ok_or_else(not_a_classifier)),
            Some(_) => Err(not_a_classifier()),
            None => {
                let metadata = select_output::unlabelled_scores(outputs).ok_or_else(not_a_classifier)?;
                let tensor = inference.outputs.iter().find(|tensor| tensor.name == metadata.name);
                let output = Output { tensor: tensor.ok_or_else(not_a_classifier)?, metadata, labels: &[] };
                output.first_row_argmax()?.ok_or_else(not_a_classifier)
            }
        }
    }
}

impl<'a> Output<'a> {
    fn decode(self, task: Task, top_k: TopK) -> Result<TypedResult<'a>, PredictionError> {
        Ok(match task {
            Task::Classification => TypedResult::Classification(self.classification(top_k)?),
            Task::MultiLabel => TypedResult::MultiLabel(self.multi_label(top_k)?),
            Task::Regression => TypedResult::Regression(self.regression()?),
            Task::Embedding => TypedResult::Embedding(self.embedding()?),
            Task::Image => TypedResult::Image(self.image()?),
            Task::Segmentation => TypedResult::Segmentation(self.segmentation()?),
            Task::Detection | Task::None => return Err(self.unsupported_shape(task)),
        })
    }
}

fn all_outputs<'a>(inference: &Inference, outputs: &[TensorMetadata]) -> Result<TypedResult<'a>, PredictionError> {
    let bytes = inference.outputs.iter().map(|output| output.data.len()).sum();
    if bytes > MAX_JSON_TENSOR_BYTES {
        return Err(PredictionError::TooLarge { what: "tensors", bytes, max: MAX_JSON_TENSOR_BYTES });
    }
    let json =
        outputs_to_json(&inference.outputs, outputs).map_err(|error| PredictionError::Encoding(error.message))?;
    let outputs = RawValue::from_string(json).map_err(|error| PredictionError::Encoding(error.to_string()))?;
    Ok(TypedResult::Tensors(Tensors { outputs }))
}

#[cfg(test)]
mod tests;
