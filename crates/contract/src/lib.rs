//! What `web_api` and `model_api` say to each other: the words of the private HTTP interface, and nothing that acts.
//!
//! Both services depend on this crate and never on each other, so a change here is a change of the contract.

mod fit;
mod image_array;
mod model;
mod pipeline;
mod prediction;

pub use fit::Misfit;
pub use image_array::{ImageArray, ImageArrayError, LegacyAnswer};
pub use model::{Device, ImageInput, ModelDescription, ModelList, valid_model_name};
pub use pipeline::{Missing, Pipeline, Progress, Source, Step, Wire, answer_to_nothing};
pub use prediction::{
    BadTopK, Choice, ClassScore, ClassShare, Classification, Embedding, Image, LabelScore, MAX_JSON_IMAGE_BYTES,
    MAX_JSON_TENSOR_BYTES, MultiLabel, NoPrediction, Number, Png, Prediction, Present, Regression, Scale, Segmentation,
    Tensors, TopK, TypedResult, Values,
};
