use serde::{Deserialize, Serialize};

/// The answer of `model_api` to one picture or one `image_arr`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The model that answered.
    pub model: String,
    /// The version that answered.
    pub version: String,
    /// Index of the largest value in row 0 of the first output.
    pub cls: usize,
    /// The label at `cls`; its number where the model has no labels.
    pub label: String,
    /// The value at `cls`.
    pub value: f32,
    /// Row 0 of the first output in the output's order.
    pub probabilities: Vec<ClassScore>,
    /// `sha256:<hex>` of the model that really answered: answers are remembered under this one.
    pub model_digest: String,
    /// `"cpu"` or `"cuda"`: what really ran.
    pub device: String,
    /// Where the time went.
    pub timing_ms: Timing,
}

/// One class and its value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassScore {
    /// The class's label.
    pub label: String,
    /// The model's value for it, unscaled.
    pub value: f32,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Reading the picture or the JSON list into a tensor.
    pub decode: f64,
    /// Waiting for a session.
    pub queue: f64,
    /// In the session, the way to its process included.
    pub infer: f64,
}
