//! Requests: parsed input is decoded and validated against the model's signature before the model runs.

mod decode;
mod image_hint;
mod input;
pub(crate) mod model_name;
pub(crate) mod output_options;
mod table;
pub(crate) mod validate;

pub use decode::decode_request;
pub use image_hint::image_settings_hint;
pub use output_options::OutputOptions;
pub use validate::validate_inputs;
