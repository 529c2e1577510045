//! Error type of the service. [`Error::status`] is the table of HTTP statuses and metric labels.
//!
//! `Display` is the text for the client: it describes what is wrong with the request and never names internals. gRPC derives its
//! code from the HTTP status.

use contract::{InvalidTopK, PredictionError, ToTensorError};
use db_api::jobs::{JobError, SkippedFiles};
use http::StatusCode;
use service::body_limits::BodyError;
use service::problem::RETRY_AFTER_SECONDS;

use crate::archive::ArchiveError;
use crate::webhook::allow_list::InvalidWebhook;

/// Conversions from errors of modules, and to responses.
mod convert;

/// Parts of error messages.
mod message;

#[cfg(test)]
mod tests;

use message::{available_names, job_queue_message, method_message, skipped_files};

/// Error of a request. `Clone`, because all participants of a single flight receive the same error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The request has no image.
    #[error("Upload an image first!")]
    NoImage,
    /// The form has more than one image.
    #[error("The form contains several files; send one file per request.")]
    MultipleImages,
    /// The form has no field for an image.
    #[error("The form has no field \"image\" or \"file\"; it has {0}.")]
    MissingImageField(String),
    /// The form cannot be parsed.
    #[error("The form cannot be read: {0}.")]
    InvalidForm(String),
    /// The body is neither an image nor a form.
    #[error(
        "{0:?} is neither a form nor an image: send -F image=@FILE, or --data-binary @FILE with -H 'Content-Type: image/png'."
    )]
    UnsupportedMediaType(String),
    /// The JSON body of `/web_api` is invalid.
    #[error("{0}")]
    InvalidJson(String),
    /// The body is too large, too slow, or incomplete.
    #[error("{0}")]
    Body(#[from] BodyError),
    /// No route has this path.
    #[error("No such route.")]
    RouteNotFound,
    /// The path exists, but not with this method.
    #[error("{}", method_message(.0))]
    MethodNotAllowed(http::Method),
    /// No model has this name.
    #[error("There is no model {requested:?}; {}.", available_names("model", .available))]
    UnknownModel {
        /// Name in the request.
        requested: String,
        /// Names of the models that are served.
        available: Vec<String>,
    },
    /// The model exists, but `MODEL_NAME` does not select it.
    #[error(
        "{model} is not served: MODEL_NAME={model_name} does not select it. Add it there and restart, or load it with POST /v2/repository/models/{model}/load."
    )]
    ModelNotSelected {
        /// Name of the model.
        model: String,
        /// Value of `MODEL_NAME`.
        model_name: String,
    },
    /// Several models are served, and the request names none.
    #[error("Several models are served; name one in the path: {}.", .0.join(", "))]
    ModelNameRequired(Vec<String>),
    /// The model has no such version.
    #[error("{model} has no version {requested:?}; {}.", available_names("version", .available))]
    UnknownVersion {
        /// Name of the model.
        model: String,
        /// Version in the request.
        requested: String,
        /// Versions that are served.
        available: Vec<String>,
    },
    /// The model is not loaded, or failed to load.
    #[error("{model} is not available: {}.", .reason.trim_end_matches('.'))]
    ModelNotReady {
        /// Name of the model.
        model: String,
        /// Why it is not available.
        reason: String,
    },
    /// The model does not take exactly one image.
    #[error("{0} does not accept an image; send tensors to POST /v2/models/{0}/infer.")]
    ImageNotAccepted(String),
    /// The model could take images, but its settings do not describe how.
    #[error("{model} does not accept an image yet. {remedy}.")]
    ImageSettingsMissing {
        /// Name of the model.
        model: String,
        /// Settings to add, and the file to add them to.
        remedy: String,
    },
    /// The model takes more than one tensor.
    #[error("{0} does not accept a single array; send tensors to POST /v2/models/{0}/infer.")]
    ArrayNotAccepted(String),
    /// The array has another shape, or numbers outside of the range of the model's datatype.
    #[error("{0}.")]
    ShapeMismatch(#[from] ToTensorError),
    /// The result cannot be represented in the form of its task.
    #[error("{0}; POST /v2/models/NAME/infer returns all outputs as tensors, also in binary form.")]
    UnrepresentableResult(#[from] PredictionError),
    /// `top_k` is neither a number of classes nor `all`.
    #[error("{0}.")]
    InvalidTopK(#[from] InvalidTopK),
    /// The query string cannot be parsed.
    #[error("{0}.")]
    InvalidQuery(String),
    /// The client accepts only an image, and the result does not have exactly one.
    #[error("The result has {0} images, and image/png can carry one; request application/json.")]
    NotOneImage(usize),
    /// `REPOSITORY_API=off`.
    #[error("Models cannot be loaded or unloaded over this port: REPOSITORY_API is off.")]
    RepositoryApiDisabled,
    /// A change of the repository failed on one replica of `model_api`.
    #[error("Replica {failed} of {replicas} failed: {reason} The other replicas succeeded; retrying is safe.")]
    ReplicaFailed {
        /// Number of the first replica that failed, starting at 1.
        failed: usize,
        /// Number of replicas.
        replicas: usize,
        /// Error of that replica.
        reason: Box<Error>,
    },
    /// `only-if-cached`, and there is no cached result.
    #[error("The result is not cached, or the request forbids a cached result, and only-if-cached forbids inference.")]
    NotCached,
    /// `MAX_CONCURRENT_REQUESTS` requests are in flight, or the initial window of one model is full.
    #[error("Too many requests at the same time; try again shortly.")]
    Busy,
    /// `model_api` sheds load of this model.
    #[error(
        "The model {model:?} is overloaded: it receives more requests than it can process. Try again in {retry_after_s} s."
    )]
    Overloaded {
        /// Name of the model.
        model: String,
        /// Value of `Retry-After` in seconds.
        retry_after_s: u32,
    },
    /// Error response of `model_api`, whose text is meant for the client.
    #[error("{0}")]
    Model(open_inference::Error),
    /// A step of a pipeline failed.
    #[error("step {step:?}: {error}")]
    PipelineStep {
        /// Name of the step.
        step: String,
        /// Error of the step.
        error: Box<Error>,
    },
    /// `model_api` is unreachable.
    #[error("The model server is unreachable; only cached results are available.")]
    ModelUnreachable,
    /// `model_api` did not respond within `REQUEST_TIMEOUT_MS`.
    #[error("The model did not respond in time.")]
    DeadlineExceeded,
    /// Redis is unavailable, and the operation needs it.
    #[error("Redis does not respond, so some cached results may remain; try again shortly.")]
    CacheUnavailable,
    /// A request to `/jobs` is invalid.
    #[error("{0}.")]
    InvalidJobRequest(String),
    /// The body has no format in which a job can carry its inputs.
    #[error(
        "{0:?} is not a format for the inputs of a job; send a form with files, a ZIP or TAR of images, or inference requests as a JSON list or NDJSON."
    )]
    UnsupportedJobMediaType(String),
    /// An archive is invalid or exceeds a limit.
    #[error("{0}.")]
    Archive(#[from] ArchiveError),
    /// The job has no inputs.
    #[error("The submission contains no inputs.")]
    NoInputs,
    /// The job has files, but no images.
    #[error("The submission contains no images: {}. Send images, or a ZIP or TAR of images.", skipped_files(.0))]
    NoImageInputs(SkippedFiles),
    /// The job has more than `MAX_JOB_INPUTS` inputs.
    #[error("{sent} or more inputs are too many for one job; the maximum is {max}.")]
    TooManyInputs {
        /// Number of inputs that were read.
        sent: usize,
        /// Maximum.
        max: usize,
    },
    /// No job has this ID, or its tombstone has expired.
    #[error("There is no such job, or it expired long ago.")]
    UnknownJob,
    /// The job has expired or was deleted. A tombstone remains for some time.
    #[error("The job has expired or was deleted, and its results with it.")]
    JobExpired,
    /// The job has not ended, or none of its inputs failed.
    #[error("There is nothing to retry: only a failed job has inputs that can be retried.")]
    NothingToRetry,
    /// Too many requests wait for events of jobs.
    #[error("{max} requests wait for events of jobs, which is the maximum; try again shortly.")]
    TooManyListeners {
        /// Limit that was reached: per job, or over all jobs.
        max: usize,
    },
    /// `JOB_LIST=off`.
    #[error("Jobs cannot be listed over this port: JOB_LIST is off.")]
    JobListDisabled,
    /// `WEBHOOK_ALLOW` is unset.
    #[error("Webhooks are disabled: WEBHOOK_ALLOW names no hosts.")]
    WebhooksDisabled,
    /// `WEBHOOK_ALLOW` does not permit the URL of the webhook, or the URL is invalid.
    #[error("The webhook cannot be called: {0}.")]
    Webhook(#[from] InvalidWebhook),
    /// The job queue rejected the operation.
    #[error("{}", job_queue_message(.0))]
    JobQueue(#[from] JobError),
    /// Bug, or a failure of the host. Details are in the log.
    #[error("Internal error; see the server log for this request ID.")]
    Internal,
}

impl Error {
    /// HTTP status, and label in metrics.
    pub fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::NoImage => (StatusCode::BAD_REQUEST, "no_image"),
            Self::MultipleImages => (StatusCode::BAD_REQUEST, "several_images"),
            Self::MissingImageField(_) => (StatusCode::BAD_REQUEST, "wrong_field"),
            Self::InvalidForm(_) => (StatusCode::BAD_REQUEST, "form"),
            Self::UnsupportedMediaType(_) | Self::UnsupportedJobMediaType(_) => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type")
            }
            Self::InvalidJson(_) => (StatusCode::BAD_REQUEST, "json"),
            Self::Body(error) | Self::Archive(ArchiveError::Memory(error)) => (error.status(), "body"),
            Self::RouteNotFound => (StatusCode::NOT_FOUND, "no_route"),
            Self::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "method"),
            Self::UnknownModel { .. } | Self::ModelNotSelected { .. } => (StatusCode::NOT_FOUND, "unknown_model"),
            Self::ModelNameRequired(_) => (StatusCode::UNPROCESSABLE_ENTITY, "name_a_model"),
            Self::UnknownVersion { .. } => (StatusCode::NOT_FOUND, "unknown_version"),
            Self::ModelNotReady { .. } => (StatusCode::SERVICE_UNAVAILABLE, "not_loaded"),
            Self::ImageNotAccepted(_)
            | Self::ImageSettingsMissing { .. }
            | Self::ArrayNotAccepted(_)
            | Self::ShapeMismatch(_) => (StatusCode::UNPROCESSABLE_ENTITY, "unfit"),
            Self::UnrepresentableResult(_) => (StatusCode::UNPROCESSABLE_ENTITY, "no_prediction"),
            Self::InvalidTopK(_) | Self::InvalidQuery(_) => (StatusCode::BAD_REQUEST, "query"),
            Self::NotOneImage(_) => (StatusCode::NOT_ACCEPTABLE, "not_one_image"),
            Self::RepositoryApiDisabled => (StatusCode::FORBIDDEN, "repository_closed"),
            Self::ReplicaFailed { reason, .. } => reason.status(),
            Self::NotCached => (StatusCode::GATEWAY_TIMEOUT, "not_remembered"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Self::Overloaded { .. } => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::Model(error) => (error_status(error.status), "model"),
            Self::PipelineStep { error, .. } => error.status(),
            Self::ModelUnreachable => (StatusCode::SERVICE_UNAVAILABLE, "model_unreachable"),
            Self::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "deadline"),
            Self::CacheUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "memory_unavailable"),
            Self::InvalidJobRequest(_) | Self::NoInputs | Self::NoImageInputs(_) => (StatusCode::BAD_REQUEST, "job"),
            Self::Archive(ArchiveError::TooMuch(_) | ArchiveError::Ratio(_)) | Self::TooManyInputs { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too_many_inputs")
            }
            Self::Archive(ArchiveError::EntryTooLarge(..)) | Self::JobQueue(JobError::InputTooLarge { .. }) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "large_input")
            }
            Self::Archive(_) => (StatusCode::BAD_REQUEST, "archive"),
            Self::UnknownJob => (StatusCode::NOT_FOUND, "unknown_job"),
            Self::JobExpired => (StatusCode::GONE, "job_gone"),
            Self::NothingToRetry | Self::JobQueue(JobError::Conflict) => (StatusCode::CONFLICT, "job_conflict"),
            Self::TooManyListeners { .. } => (StatusCode::SERVICE_UNAVAILABLE, "listeners"),
            Self::JobListDisabled => (StatusCode::FORBIDDEN, "job_list_closed"),
            Self::WebhooksDisabled => (StatusCode::FORBIDDEN, "no_webhooks"),
            Self::Webhook(_) => (StatusCode::UNPROCESSABLE_ENTITY, "webhook"),
            Self::JobQueue(JobError::CorruptJob { .. }) => (StatusCode::INTERNAL_SERVER_ERROR, "queue"),
            Self::JobQueue(_) => (StatusCode::SERVICE_UNAVAILABLE, "queue"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    /// Value of `Retry-After` in seconds, for statuses that have it. Uses the value of `model_api` where there is one.
    pub(crate) fn retry_after_s(&self) -> u32 {
        match self {
            Self::Model(error) => error.retry_after_s,
            Self::Overloaded { retry_after_s, .. } => *retry_after_s,
            Self::PipelineStep { error, .. } => error.retry_after_s(),
            _ => RETRY_AFTER_SECONDS,
        }
    }
}

/// Replaces a status that is not an error by 502: the client could not interpret it.
fn error_status(status: StatusCode) -> StatusCode {
    if status.is_client_error() || status.is_server_error() { status } else { StatusCode::BAD_GATEWAY }
}
