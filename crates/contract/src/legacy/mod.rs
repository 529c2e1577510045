//! Legacy interface of the first MLServe: `{"image_arr": <nested list>}` → `{"cls", "value"}`.

mod image_array;
mod to_tensor;

pub use image_array::{ImageArray, ImageArrayError, LegacyResponse};
pub use to_tensor::ToTensorError;
