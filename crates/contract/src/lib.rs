//! What `web_api` and `model_api` say to each other: the words of the private HTTP interface, and nothing that acts.
//!
//! Both services depend on this crate and never on each other, so a change here is a change of the contract.

mod image_array;
mod model;
mod prediction;
mod problem;

pub use image_array::{ImageArray, ImageArrayError, LegacyAnswer};
pub use model::{Device, ImageInput, ModelDescription, ModelList, ModelState, TensorDescription, valid_model_name};
pub use prediction::{ClassScore, Prediction, Timing};
pub use problem::Problem;
