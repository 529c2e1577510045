/// Why an inference cannot be given as a typed result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PredictionError {
    /// A class is wanted, and no output is known to be scores of classes.
    #[error("The result of {model} is not a choice between classes")]
    NotAClassifier {
        /// The model.
        model: String,
    },
    /// JSON has no number for it, and no class can be chosen.
    #[error("The result for this input is not a finite number")]
    NotFinite,
    /// The shape of the tensor is not one of its task.
    #[error("Output {output:?} of the shape {shape:?} cannot be read as {task}")]
    UnsupportedShape {
        /// The output.
        output: String,
        /// The shape of this tensor.
        shape: Vec<usize>,
        /// The task.
        task: &'static str,
    },
    /// Values that a class map cannot have.
    #[error("Output {output:?} holds {value}, which is not a class number")]
    InvalidClassNumber {
        /// The output.
        output: String,
        /// One of its values.
        value: String,
    },
    /// JSON of this size would be a burden for server and client.
    #[error("The result has {bytes} bytes of {what}, and at most {max} are written into JSON")]
    TooLarge {
        /// `tensors` or `images`.
        what: &'static str,
        /// How many.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// An output that cannot be written.
    #[error("The result cannot be written: {0}")]
    Encoding(String),
}
