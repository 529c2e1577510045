//! Typed results: an inference read by the task of one of its outputs.
//!
//! The output is chosen by task and labels, never by position. A result that is not known to be of a certain kind is given
//! as the tensors that it is: a class is never guessed.

mod choose;
mod error;
mod numbers;
mod pixels;
mod rows;
mod scores;
mod top_k;

use open_inference::{Inference, Provenance, Task, Tensor, TensorMetadata, outputs_to_json};
use serde::Serialize;
use serde_json::value::RawValue;

pub use error::NoPrediction;
pub use numbers::{Embedding, Number, Regression, Values};
pub use pixels::{ClassShare, Image, MAX_JSON_IMAGE_BYTES, Png, Segmentation};
pub use scores::{Choice, ClassScore, Classification, LabelScore, MultiLabel, Present, Scale};
pub use top_k::{BadTopK, TopK};

use choose::{chosen, result_of};

/// Tensors of more bytes are not written as JSON numbers in a typed result.
pub const MAX_JSON_TENSOR_BYTES: usize = 4 << 20;

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
    pub fn read_out(
        inference: &'a Inference,
        outputs: &'a [TensorMetadata],
        top_k: TopK,
    ) -> Result<Self, NoPrediction> {
        Self::read(inference, outputs, top_k, true)
    }

    /// What results of a model with these outputs are, and the output that is read. It is `None` where the result is all outputs.
    pub fn task(outputs: &[TensorMetadata]) -> (Task, Option<&TensorMetadata>) {
        result_of(outputs)
    }

    /// Reads `inference`, whose model has changed since `outputs` were known: classes have numbers instead of labels.
    pub fn read_out_unlabelled(
        inference: &'a Inference,
        outputs: &'a [TensorMetadata],
        top_k: TopK,
    ) -> Result<Self, NoPrediction> {
        Self::read(inference, outputs, top_k, false)
    }

    fn read(
        inference: &'a Inference,
        outputs: &'a [TensorMetadata],
        top_k: TopK,
        labelled: bool,
    ) -> Result<Self, NoPrediction> {
        let (task, output, result) = if let Some((task, metadata, tensor)) = chosen(&inference.outputs, outputs) {
            let labels = if labelled { metadata.parameters.labels.as_slice() } else { &[] };
            let read = Output { tensor, metadata, labels };
            (task, Some(metadata.name.as_str()), read.by(task, top_k)?)
        } else {
            let task = Some(result_of(outputs).0).filter(|&task| task == Task::Detection);
            (task.unwrap_or(Task::None), None, tensors(inference, outputs)?)
        };
        let Inference { model, version, provenance, .. } = inference;
        Ok(Self { model, version, task, output, result, provenance })
    }

    /// The result in the terms of the first MLServe, whose models were all classifiers: the class of row 0.
    ///
    /// Also read where nothing is known of the model's outputs: the largest of row 0 of the first output, if that has a row of
    /// two or more floating-point numbers. Results of any other known task are refused.
    pub fn class_of_row_0(
        inference: &'a Inference,
        outputs: &'a [TensorMetadata],
    ) -> Result<(usize, f32), NoPrediction> {
        let no_classes = || NoPrediction::NoClasses { model: inference.model.clone() };
        match chosen(&inference.outputs, outputs) {
            Some((Task::Classification, metadata, tensor)) => {
                let TypedResult::Classification(Classification { top: Some(top), .. }) =
                    (Output { tensor, metadata, labels: &[] }).by(Task::Classification, TopK::Default)?
                else {
                    return Err(no_classes());
                };
                Ok((top.cls, top.value))
            }
            Some((Task::MultiLabel, metadata, tensor)) => {
                (Output { tensor, metadata, labels: &[] }).largest_of_row_0().and_then(|top| top.ok_or_else(no_classes))
            }
            Some(_) => Err(no_classes()),
            None => {
                let metadata = choose::unknown_scores(outputs).ok_or_else(no_classes)?;
                let tensor = inference.outputs.iter().find(|tensor| tensor.name == metadata.name);
                let read = Output { tensor: tensor.ok_or_else(no_classes)?, metadata, labels: &[] };
                read.largest_of_row_0()?.ok_or_else(no_classes)
            }
        }
    }
}

/// An output that is read: its tensor, what is known of it, and the names of its classes.
#[derive(Clone, Copy)]
struct Output<'a> {
    tensor: &'a Tensor,
    metadata: &'a TensorMetadata,
    labels: &'a [String],
}

impl<'a> Output<'a> {
    fn by(self, task: Task, top_k: TopK) -> Result<TypedResult<'a>, NoPrediction> {
        Ok(match task {
            Task::Classification => TypedResult::Classification(self.classification(top_k)?),
            Task::MultiLabel => TypedResult::MultiLabel(self.multi_label(top_k)?),
            Task::Regression => TypedResult::Regression(self.regression()?),
            Task::Embedding => TypedResult::Embedding(self.embedding()?),
            Task::Image => TypedResult::Image(self.image()?),
            Task::Segmentation => TypedResult::Segmentation(self.segmentation()?),
            Task::Detection | Task::None => return Err(self.unfit(task)),
        })
    }

    fn unfit(&self, task: Task) -> NoPrediction {
        NoPrediction::Unfit { output: self.tensor.name.clone(), shape: self.tensor.shape.clone(), task: task.name() }
    }
}

fn tensors<'a>(inference: &Inference, outputs: &[TensorMetadata]) -> Result<TypedResult<'a>, NoPrediction> {
    let bytes = inference.outputs.iter().map(|output| output.data.len()).sum();
    if bytes > MAX_JSON_TENSOR_BYTES {
        return Err(NoPrediction::TooLarge { what: "tensors", bytes, most: MAX_JSON_TENSOR_BYTES });
    }
    let json = outputs_to_json(&inference.outputs, outputs).map_err(|error| NoPrediction::Unwritable(error.message))?;
    let outputs = RawValue::from_string(json).map_err(|error| NoPrediction::Unwritable(error.to_string()))?;
    Ok(TypedResult::Tensors(Tensors { outputs }))
}

#[cfg(test)]
mod tests;
