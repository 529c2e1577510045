//! Errors of typed results.

/// Why an inference cannot be converted to a typed result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PredictionError {
    /// A class is requested, but no output contains class scores.
    #[error("The result of {model} contains no classes")]
    NotAClassifier {
        /// Name of the model.
        model: String,
    },
    /// JSON has no such number, and no class can be selected.
    #[error("The result for this input is not a finite number")]
    NotFinite,
    /// The shape of the tensor does not fit its task.
    #[error("Output {output:?} has the shape {shape:?}, which does not fit the task {task}")]
    UnsupportedShape {
        /// Name of the output.
        output: String,
        /// Shape of the tensor.
        shape: Vec<usize>,
        /// Task of the output.
        task: &'static str,
    },
    /// A class map contains a value that is not a class index.
    #[error("Output {output:?} contains {value}, which is not a class index")]
    InvalidClassIndex {
        /// Name of the output.
        output: String,
        /// The value.
        value: String,
    },
    /// The result is too large for JSON.
    #[error("The result has {bytes} bytes of {what}, and JSON responses contain at most {max}")]
    TooLarge {
        /// `tensors` or `images`.
        what: &'static str,
        /// Size of the result.
        bytes: usize,
        /// Size limit.
        max: usize,
    },
    /// An output cannot be encoded.
    #[error("The result cannot be encoded: {0}")]
    Encoding(String),
}
