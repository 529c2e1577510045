//! Internal API between `web_api` and `model_api`: the types of its JSON and their conversions.
//!
//! Both services depend on this crate and never on each other, so a change here is a change of the contract.

mod legacy;
mod model_description;
mod pipeline;
mod prediction;

pub use legacy::{ImageArray, ImageArrayError, LegacyResponse, ToTensorError};
pub use model_description::{Device, ImageInput, ModelDescription, ModelList, Unselected, valid_model_name};
pub use pipeline::{Edge, MissingTensor, Pipeline, PipelineRun, Source, Step, empty_outputs};
pub use prediction::{
    ClassScore, ClassShare, Classification, Embedding, Image, InvalidTopK, LabelScore, MAX_JSON_IMAGE_BYTES,
    MAX_JSON_TENSOR_BYTES, MultiLabel, Number, Png, Prediction, PredictionError, PresentLabels, Regression, Scale,
    Segmentation, Tensors, TopClass, TopK, TypedResult, Values,
};
