//! Typed results: an inference read by the task of one of its outputs.
//!
//! The output is chosen by task and labels, never by position. A result that is not known to be of a certain kind is given
//! as the tensors that it is: a class is never guessed.

mod classes;
mod error;
mod images;
mod output;
mod rows;
mod select_output;
mod top_k;
mod values;

use open_inference::{Inference, Provenance, Task, TensorMetadata, write_outputs};
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

/// An inference in the form that its task gives it.
#[derive(Clone, Debug)]
pub struct Prediction<'a> {
    /// The model that computed it.
    pub model: &'a str,
    /// Its version.
    pub version: &'a str,
    /// What the result is.
    pub task: Task,
    /// The output that was read; `None` where the result is all outputs as tensors.
    pub output: Option<&'a str>,
    /// The result.
    pub result: TypedResult<'a>,
    /// What computed it, and the times.
    pub provenance: &'a Provenance,
}

/// A result by task. Its fields are fields of the response's JSON object.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum TypedResult<'a> {
    /// One of several classes.
    Classification(Classification<'a>),
    /// Any number of several classes.
    MultiLabel(MultiLabel<'a>),
    /// A number, or several.
    Regression(Regression<'a>),
    /// A vector.
    Embedding(Embedding),
    /// An image.
    Image(Image),
    /// A class for each pixel.
    Segmentation(Segmentation<'a>),
    /// Detections, and everything else: all outputs.
    Tensors(Tensors),
}

impl TypedResult<'_> {
    /// The images of the result, one for each row; none of other tasks.
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
    /// `[{"name", "datatype", "shape", "data"}]`, in the graph's order.
    pub outputs: Box<RawValue>,
}

impl<'a> Prediction<'a> {
    /// Reads `inference`, a result of the model whose outputs are `outputs`.
    pub fn from_inference(
        inference: &'a Inference,
        outputs: &'a [TensorMetadata],
        top_k: TopK,
    ) -> Result<Self, PredictionError> {
        Self::read(inference, outputs, top_k, true)
    }

    /// What results of a model with these outputs are, and the output that is read. It is `None` where the result is all outputs.
    pub fn task(outputs: &[TensorMetadata]) -> (Task, Option<&TensorMetadata>) {
        task_and_output(outputs)
    }

    /// Reads `inference`, whose model has changed since `outputs` were known: classes have numbers instead of labels.
    pub fn from_inference_unlabelled(
        inference: &'a Inference,
        outputs: &'a [TensorMetadata],
        top_k: TopK,
    ) -> Result<Self, PredictionError> {
        Self::read(inference, outputs, top_k, false)
    }

    fn read(
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

    /// The result in the terms of the first MLServe, whose models were all classifiers: the class of row 0.
    ///
    /// Also read where nothing is known of the model's outputs: the largest of row 0 of the first output, if that has a row of
    /// two or more floating-point numbers. Results of any other known task are refused.
    pub fn first_row_class(
        inference: &'a Inference,
        outputs: &'a [TensorMetadata],
    ) -> Result<(usize, f32), PredictionError> {
        let no_classes = || PredictionError::NotAClassifier { model: inference.model.clone() };
        match select_output(&inference.outputs, outputs) {
            Some((Task::Classification, metadata, tensor)) => {
                let TypedResult::Classification(Classification { top: Some(top), .. }) =
                    (Output { tensor, metadata, labels: &[] }).decode(Task::Classification, TopK::Default)?
                else {
                    return Err(no_classes());
                };
                Ok((top.cls, top.value))
            }
            Some((Task::MultiLabel, metadata, tensor)) => {
                (Output { tensor, metadata, labels: &[] }).first_row_argmax().and_then(|top| top.ok_or_else(no_classes))
            }
            Some(_) => Err(no_classes()),
            None => {
                let metadata = select_output::unlabelled_scores(outputs).ok_or_else(no_classes)?;
                let tensor = inference.outputs.iter().find(|tensor| tensor.name == metadata.name);
                let read = Output { tensor: tensor.ok_or_else(no_classes)?, metadata, labels: &[] };
                read.first_row_argmax()?.ok_or_else(no_classes)
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
    let json = write_outputs(&inference.outputs, outputs).map_err(|error| PredictionError::Encoding(error.message))?;
    let outputs = RawValue::from_string(json).map_err(|error| PredictionError::Encoding(error.to_string()))?;
    Ok(TypedResult::Tensors(Tensors { outputs }))
}

#[cfg(test)]
mod tests;
