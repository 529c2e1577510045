use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use contract::PredictionError;
use service::body_limits::BodyError;
use service::problem::{RETRY_AFTER_SECONDS, problem_with_retry_after};
use tracing::error;

use crate::image_input::ImageError;
use crate::pool::RunError;

/// Why a request got no answer. The texts are for whoever asked: what was wrong with this request, and no path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The body is not what the route reads.
    #[error("{0}")]
    Malformed(String),
    /// A model that is not served.
    #[error("there is no such model; there are: {there_are}")]
    UnknownModel {
        /// The names of those that are served.
        there_are: String,
    },
    /// A model that is in the repository, and that `MODEL_NAME` does not select.
    #[error("{model} is not served: {reason}; add it there and restart, or POST /v2/repository/models/{model}/load")]
    Unselected {
        /// The model.
        model: String,
        /// What `MODEL_NAME` is.
        reason: String,
    },
    /// A version that is not served, of a model that is.
    #[error("there is no such version of this model; there are: {there_are}")]
    UnknownVersion {
        /// The versions that are served.
        there_are: String,
    },
    /// A model that cannot be loaded because there is none.
    #[error("there is no such model in the repository; there are: {there_are}")]
    NotInRepository {
        /// The names of those that are.
        there_are: String,
    },
    /// A model whose files are of no use. What was served of it before still is.
    #[error("{model} cannot be loaded: {reason}")]
    NotLoaded {
        /// The model.
        model: String,
        /// Why not.
        reason: String,
    },
    /// No model was named, and there is a choice.
    #[error("several models are served, and none was named: {there_are}")]
    NoModelNamed {
        /// The names of those that are served.
        there_are: String,
    },
    /// The body was not read.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The picture was not read.
    #[error(transparent)]
    Picture(#[from] ImageError),
    /// One of several pictures was not read.
    #[error("picture {place}: {error}")]
    OneOfPictures {
        /// Which, from 0.
        place: usize,
        /// Why not.
        error: Box<Error>,
    },
    /// A step of a pipeline got none.
    #[error("step {step:?}: {error}")]
    Step {
        /// Which.
        step: String,
        /// Why not.
        error: Box<Error>,
    },
    /// What was sent does not fit the model.
    #[error("{0}")]
    Unfit(String),
    /// The request is not what the protocol says, or does not fit the model.
    #[error(transparent)]
    Request(#[from] open_inference::Error),
    /// The answer is no choice between classes.
    #[error(transparent)]
    NoPrediction(#[from] PredictionError),
    /// The model cannot be asked now.
    #[error("{model} cannot be asked now: {reason}")]
    Unavailable {
        /// The model.
        model: String,
        /// Why not.
        reason: String,
    },
    /// The inputs of all requests together have as many bytes as they may.
    #[error("the inputs of all waiting requests use {0} bytes (QUEUE_BYTES); try again later")]
    InputsFull(usize),
    /// As many pictures wait to be decoded as may.
    #[error("too many requests are waiting to be decoded")]
    DecodersBusy,
    /// The model did not run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A mistake of ours; the log says which.
    #[error("an error of ours; it is in the log under this request's id")]
    Internal,
}

/// The label of what is refused for load: `web_api` sends the model less when it sees this, and for no other 503.
const FULL: &str = "full";

impl Error {
    /// The one table: the status that clients see and the label that metrics count.
    pub fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Malformed(_) | Self::Picture(ImageError::Empty) => (StatusCode::BAD_REQUEST, "malformed"),
            Self::UnknownModel { .. }
            | Self::Unselected { .. }
            | Self::UnknownVersion { .. }
            | Self::NotInRepository { .. } => (StatusCode::NOT_FOUND, "unknown_model"),
            Self::NotLoaded { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "not_loaded"),
            Self::Body(error) => (error.status(), "body"),
            Self::OneOfPictures { error, .. } | Self::Step { error, .. } => error.status(),
            Self::Request(error) => (error.status, if error.status.as_u16() == 400 { "malformed" } else { "unfit" }),
            Self::Picture(ImageError::TooLarge { .. }) | Self::Run(RunError::TooLarge(_)) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too_large")
            }
            Self::Picture(ImageError::UnknownFormat { .. }) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "no_image"),
            Self::Picture(ImageError::Undecodable { .. }) => (StatusCode::UNPROCESSABLE_ENTITY, "undecodable"),
            Self::NoModelNamed { .. } | Self::Unfit(_) => (StatusCode::UNPROCESSABLE_ENTITY, "unfit"),
            Self::NoPrediction(_) => (StatusCode::UNPROCESSABLE_ENTITY, "no_prediction"),
            Self::Run(RunError::Rows { error, .. }) => Self::Run(error.cause().clone()).status(),
            Self::Run(RunError::OutOfMemory(_)) => (StatusCode::INTERNAL_SERVER_ERROR, "out_of_memory"),
            Self::Run(RunError::Refused(_)) => (StatusCode::UNPROCESSABLE_ENTITY, "refused"),
            Self::Run(RunError::Crashed) => (StatusCode::INTERNAL_SERVER_ERROR, "crashed"),
            Self::Internal | Self::Picture(ImageError::Unprocessable { .. }) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "internal")
            }
            Self::DecodersBusy | Self::InputsFull(_) | Self::Run(RunError::Full { .. }) => {
                (StatusCode::SERVICE_UNAVAILABLE, FULL)
            }
            Self::Unavailable { .. } | Self::Run(RunError::Unavailable(_) | RunError::Stopped) => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
            }
            Self::Run(RunError::TimedOut(_)) => (StatusCode::GATEWAY_TIMEOUT, "timed_out"),
        }
    }
}

impl Error {
    /// The same, said of the picture at `place`.
    #[must_use]
    pub fn of_picture(self, place: usize) -> Self {
        Self::OneOfPictures { place, error: Box::new(self) }
    }

    /// The same, said of a pipeline's step.
    #[must_use]
    pub fn of_step(self, step: &str) -> Self {
        Self::Step { step: step.to_owned(), error: Box::new(self) }
    }

    /// How long its caller is asked to stay away, where the status says that he may come back.
    fn retry_after_s(&self) -> u32 {
        match self {
            Self::Run(RunError::Full { retry_after }) => retry_after.as_secs().try_into().unwrap_or(u32::MAX),
            Self::Step { error, .. } => error.retry_after_s(),
            _ => RETRY_AFTER_SECONDS,
        }
    }

    /// What a transport says of it. Ours to mend are logged here, once.
    fn told(&self) -> (StatusCode, String) {
        let (status, label) = self.status();
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            error!(label, error = %self, "a request failed");
        }
        (status, self.to_string())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let retry_after_s = self.retry_after_s();
        let (status, words) = self.told();
        problem_with_retry_after(status, &words, retry_after_s)
    }
}

impl From<Error> for open_inference::Error {
    fn from(error: Error) -> Self {
        let retry_after_s = error.retry_after_s();
        let is_overload = error.status().1 == FULL;
        let (status, words) = error.told();
        Self { retry_after_s, is_overload, ..Self::new(status, words) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::memory::Exceeded;

    #[test]
    fn every_error_has_its_status_and_its_label() {
        let text = String::new;
        let limit = ImageError::TooLarge { measure: "pixels", setting: "MAX_IMAGE_PIXELS", limit: 1, found: 2 };
        let table = [
            (Error::Malformed(text()), 400, "malformed"),
            (Error::UnknownModel { there_are: text() }, 404, "unknown_model"),
            (Error::UnknownVersion { there_are: text() }, 404, "unknown_model"),
            (Error::NotInRepository { there_are: text() }, 404, "unknown_model"),
            (Error::NotLoaded { model: text(), reason: text() }, 422, "not_loaded"),
            (Error::NoModelNamed { there_are: text() }, 422, "unfit"),
            (Error::Body(BodyError::TooLarge(1)), 413, "body"),
            (Error::Body(BodyError::TooSlow(Duration::ZERO)), 408, "body"),
            (Error::Body(BodyError::NoMemory), 503, "body"),
            (Error::Body(BodyError::Incomplete), 400, "body"),
            (Error::Picture(ImageError::Empty), 400, "malformed"),
            (Error::Picture(ImageError::UnknownFormat { hint: "" }), 415, "no_image"),
            (Error::Picture(limit), 413, "too_large"),
            (Error::Picture(ImageError::Undecodable { format: "PNG", reason: text() }), 422, "undecodable"),
            (Error::Picture(ImageError::Unprocessable { reason: text() }), 500, "internal"),
            (Error::Picture(ImageError::Empty).of_picture(3), 400, "malformed"),
            (Error::DecodersBusy.of_step("cut"), 503, "full"),
            (Error::Unfit(text()), 422, "unfit"),
            (Error::Request(open_inference::Error::malformed("")), 400, "malformed"),
            (Error::Request(open_inference::Error::unfit("")), 422, "unfit"),
            (Error::NoPrediction(PredictionError::NotFinite), 422, "no_prediction"),
            (Error::Unavailable { model: text(), reason: text() }, 503, "unavailable"),
            (Error::DecodersBusy, 503, "full"),
            (Error::InputsFull(1), 503, "full"),
            (Error::Run(RunError::Full { retry_after: Duration::ZERO }), 503, "full"),
            (Error::Run(RunError::Unavailable(text())), 503, "unavailable"),
            (Error::Run(RunError::Refused(text())), 422, "refused"),
            (Error::Run(RunError::OutOfMemory(Exceeded::Each(1))), 500, "out_of_memory"),
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
