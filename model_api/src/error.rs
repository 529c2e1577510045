//! Error type of requests: message, HTTP status and metric label of each error.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use contract::PredictionError;
use service::body_limits::BodyError;
use service::problem::{RETRY_AFTER_SECONDS, problem_with_retry_after};
use tracing::error;

use crate::preprocessing::ImageError;
use crate::scheduler::RunError;

/// Why a request failed. The messages are for the client: sentences that name the offending value and contain no path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The body cannot be parsed.
    #[error("{0}")]
    Malformed(String),
    /// No model has this name.
    #[error("There is no model {requested:?}; available models: {available}.")]
    UnknownModel {
        /// The name in the request.
        requested: String,
        /// Names of the models that are served.
        available: String,
    },
    /// The model is in the repository, but `MODEL_NAME` does not select it.
    #[error(
        "{model} is not served: {reason}. Add it there and restart, or load it with POST /v2/repository/models/{model}/load."
    )]
    Unselected {
        /// Name of the model.
        model: String,
        /// The value of `MODEL_NAME`, as a clause.
        reason: String,
    },
    /// The model has no such version.
    #[error("{model} has no version {requested:?}; available versions: {available}.")]
    UnknownVersion {
        /// Name of the model.
        model: String,
        /// The version in the request.
        requested: String,
        /// The versions that are served.
        available: String,
    },
    /// The model to load is not in the repository.
    #[error("There is no model {requested:?} in the repository; available models: {available}.")]
    NotInRepository {
        /// The name in the request.
        requested: String,
        /// Names of the models in the repository.
        available: String,
    },
    /// A version of the model cannot be loaded. Versions that were served before still are.
    #[error("{model} cannot be loaded: {}.", .reason.trim_end_matches('.'))]
    LoadFailed {
        /// Name of the model.
        model: String,
        /// The reason, as a clause.
        reason: String,
    },
    /// Several models are served, and the request names none.
    #[error("Several models are served; name one in the path: {available}.")]
    ModelNotNamed {
        /// Names of the models that are served.
        available: String,
    },
    /// The body is too large, too slow, or incomplete.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The image cannot be preprocessed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// One of several images cannot be preprocessed.
    #[error("Image {index}: {error}")]
    ImageAt {
        /// Index of the image, from 0.
        index: usize,
        /// The error of this image.
        error: Box<Error>,
    },
    /// A step of a pipeline failed.
    #[error("step {step:?}: {error}")]
    Step {
        /// Name of the step.
        step: String,
        /// The error of the step.
        error: Box<Error>,
    },
    /// The input does not fit the model.
    #[error("{0}")]
    InvalidInput(String),
    /// The request violates the Open Inference Protocol, or does not fit the model.
    #[error(transparent)]
    Request(#[from] open_inference::Error),
    /// The result contains no class.
    #[error("{0}.")]
    NoPrediction(#[from] PredictionError),
    /// The model has no session.
    #[error("{model} is not available: {}.", .reason.trim_end_matches('.'))]
    Unavailable {
        /// Name of the model.
        model: String,
        /// The reason, as a clause.
        reason: String,
    },
    /// The byte budget of inputs has no room for the request. Holds the size of the budget.
    #[error(
        "The inputs of all requests may use {0} bytes of memory (QUEUE_BYTES), which are in use; try again shortly."
    )]
    InputBudgetExceeded(usize),
    /// The queue of the pool that decodes images and arrays is full.
    #[error("Too many requests wait for the decoding of their inputs; try again shortly.")]
    DecodeQueueFull,
    /// The run failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A defect of the service. The log has the details.
    #[error("Internal error; see the server log for this request ID.")]
    Internal,
}

/// Longest part of a name from a request that a message repeats, in characters.
const MAX_NAME_IN_ERROR: usize = 128;

/// The label of requests that are rejected because of overload. `web_api` reduces its load only for these, and for no other 503.
const OVERLOAD_LABEL: &str = "full";

impl Error {
    /// A model name or a version from a request, for a message.
    pub fn truncated(name: &str) -> String {
        name.chars().take(MAX_NAME_IN_ERROR).collect()
    }

    /// HTTP status and metric label.
    pub fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Malformed(_) | Self::Image(ImageError::Empty) => (StatusCode::BAD_REQUEST, "malformed"),
            Self::UnknownModel { .. }
            | Self::Unselected { .. }
            | Self::UnknownVersion { .. }
            | Self::NotInRepository { .. } => (StatusCode::NOT_FOUND, "unknown_model"),
            Self::LoadFailed { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "not_loaded"),
            Self::Body(error) => (error.status(), "body"),
            Self::ImageAt { error, .. } | Self::Step { error, .. } => error.status(),
            Self::Request(error) => (error.status, if error.status.as_u16() == 400 { "malformed" } else { "unfit" }),
            Self::Image(ImageError::TooLarge { .. }) | Self::Run(RunError::TooLarge(_)) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too_large")
            }
            Self::Image(ImageError::UnknownFormat { .. }) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "no_image"),
            Self::Image(ImageError::Undecodable { .. }) => (StatusCode::UNPROCESSABLE_ENTITY, "undecodable"),
            Self::ModelNotNamed { .. } | Self::InvalidInput(_) => (StatusCode::UNPROCESSABLE_ENTITY, "unfit"),
            Self::NoPrediction(_) => (StatusCode::UNPROCESSABLE_ENTITY, "no_prediction"),
            Self::Run(RunError::Rows { error, .. }) => Self::Run(error.cause().clone()).status(),
            Self::Run(RunError::OutOfMemory(_)) => (StatusCode::INTERNAL_SERVER_ERROR, "out_of_memory"),
            Self::Run(RunError::Rejected(_)) => (StatusCode::UNPROCESSABLE_ENTITY, "refused"),
            Self::Run(RunError::Crashed) => (StatusCode::INTERNAL_SERVER_ERROR, "crashed"),
            Self::Internal | Self::Image(ImageError::Unprocessable { .. }) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "internal")
            }
            Self::DecodeQueueFull | Self::InputBudgetExceeded(_) | Self::Run(RunError::QueueFull { .. }) => {
                (StatusCode::SERVICE_UNAVAILABLE, OVERLOAD_LABEL)
            }
            Self::Unavailable { .. } | Self::Run(RunError::Unavailable(_) | RunError::Stopped) => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
            }
            Self::Run(RunError::TimedOut(_)) => (StatusCode::GATEWAY_TIMEOUT, "timed_out"),
        }
    }
}

impl Error {
    /// Adds the index of the image that has the error.
    #[must_use]
    pub fn at_image(self, index: usize) -> Self {
        Self::ImageAt { index, error: Box::new(self) }
    }

    /// Adds the pipeline step that has the error.
    #[must_use]
    pub fn in_step(self, step: &str) -> Self {
        Self::Step { step: step.to_owned(), error: Box::new(self) }
    }

    /// `Retry-After` in seconds, for statuses that have it.
    fn retry_after_s(&self) -> u32 {
        match self {
            Self::Run(RunError::QueueFull { retry_after }) => retry_after.as_secs().try_into().unwrap_or(u32::MAX),
            Self::Step { error, .. } => error.retry_after_s(),
            _ => RETRY_AFTER_SECONDS,
        }
    }

    /// Status and message for the transports. Errors of the server are logged here, once.
    fn log_and_render(&self) -> (StatusCode, String) {
        let (status, label) = self.status();
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            error!(label, error = %self, "request failed");
        }
        (status, self.to_string())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let retry_after_s = self.retry_after_s();
        let (status, detail) = self.log_and_render();
        problem_with_retry_after(status, &detail, retry_after_s)
    }
}

impl From<Error> for open_inference::Error {
    fn from(error: Error) -> Self {
        let retry_after_s = error.retry_after_s();
        let is_overload = error.status().1 == OVERLOAD_LABEL;
        let (status, detail) = error.log_and_render();
        Self { retry_after_s, is_overload, ..Self::new(status, detail) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::memory::LimitExceeded;

    #[test]
    fn every_error_has_its_status_and_its_label() {
        let text = String::new;
        let limit = ImageError::TooLarge { measure: "pixels", setting: "MAX_IMAGE_PIXELS", limit: 1, found: 2 };
        let table = [
            (Error::Malformed(text()), 400, "malformed"),
            (Error::UnknownModel { requested: text(), available: text() }, 404, "unknown_model"),
            (Error::UnknownVersion { model: text(), requested: text(), available: text() }, 404, "unknown_model"),
            (Error::NotInRepository { requested: text(), available: text() }, 404, "unknown_model"),
            (Error::LoadFailed { model: text(), reason: text() }, 422, "not_loaded"),
            (Error::ModelNotNamed { available: text() }, 422, "unfit"),
            (Error::Body(BodyError::TooLarge(1)), 413, "body"),
            (Error::Body(BodyError::TooSlow(Duration::ZERO)), 408, "body"),
            (Error::Body(BodyError::NoMemory), 503, "body"),
            (Error::Body(BodyError::Incomplete), 400, "body"),
            (Error::Image(ImageError::Empty), 400, "malformed"),
            (Error::Image(ImageError::UnknownFormat { hint: "" }), 415, "no_image"),
            (Error::Image(limit), 413, "too_large"),
            (Error::Image(ImageError::Undecodable { format: "PNG", reason: text() }), 422, "undecodable"),
            (Error::Image(ImageError::Unprocessable { reason: text() }), 500, "internal"),
            (Error::Image(ImageError::Empty).at_image(3), 400, "malformed"),
            (Error::DecodeQueueFull.in_step("cut"), 503, "full"),
            (Error::InvalidInput(text()), 422, "unfit"),
            (Error::Request(open_inference::Error::malformed("")), 400, "malformed"),
            (Error::Request(open_inference::Error::unprocessable("")), 422, "unfit"),
            (Error::NoPrediction(PredictionError::NotFinite), 422, "no_prediction"),
            (Error::Unavailable { model: text(), reason: text() }, 503, "unavailable"),
            (Error::DecodeQueueFull, 503, "full"),
            (Error::InputBudgetExceeded(1), 503, "full"),
            (Error::Run(RunError::QueueFull { retry_after: Duration::ZERO }), 503, "full"),
            (Error::Run(RunError::Unavailable(text())), 503, "unavailable"),
            (Error::Run(RunError::Rejected(text())), 422, "refused"),
            (Error::Run(RunError::OutOfMemory(LimitExceeded::PerSession(1))), 500, "out_of_memory"),
            (Error::Run(RunError::TooLarge(text())), 413, "too_large"),
            (Error::Run(RunError::Rows { first: 0, last: 1, error: Box::new(RunError::Crashed) }), 500, "crashed"),
            (Error::Run(RunError::Crashed), 500, "crashed"),
            (Error::Run(RunError::TimedOut(Duration::ZERO)), 504, "timed_out"),
            (Error::Run(RunError::Stopped), 503, "unavailable"),
            (Error::Internal, 500, "internal"),
        ];
        for (error, status, label) in table {
            let (found_status, found_label) = error.status();
            assert_eq!((found_status.as_u16(), found_label), (status, label), "{error:?}");
        }
    }
}
