use axum::response::{IntoResponse, Response};
use contract::{InvalidTopK, PredictionError, ToTensorError};
use db_api::jobs::{JobError, Skipped};
use http::StatusCode;
use service::body_limits::BodyError;
use service::problem::{RETRY_AFTER_SECONDS, problem_with_retry_after};

use crate::archive::ArchiveError;
use crate::webhook::BadWebhook;

/// Characters of a method that an error repeats.
const MAX_SHOWN_METHOD: usize = 32;

/// Everything that can go wrong with a question. `Clone`, because all who wait for one flight get its error.
///
/// `Display` is for the caller: it says what was wrong with this request and names nothing inside.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The request carries no picture.
    #[error("Upload an image first!")]
    NoImage,
    /// Two files in one form.
    #[error("The form holds several files; send one per request.")]
    SeveralImages,
    /// A form without the fields we read.
    #[error("The form has no field \"image\" or \"file\"; it has {0}.")]
    WrongField(String),
    /// A form that is none.
    #[error("The form cannot be read: {0}.")]
    Form(String),
    /// A body that is neither a picture nor a form.
    #[error(
        "{0:?} is neither a form nor an image: send -F image=@FILE, or --data-binary @FILE with -H 'Content-Type: image/png'."
    )]
    MediaType(String),
    /// The JSON of the old clients, but wrong.
    #[error("{0}")]
    Json(String),
    /// The body did not come, or is too large.
    #[error("{0}")]
    Body(#[from] BodyError),
    /// No such route.
    #[error("There is nothing here.")]
    NoRoute,
    /// The path's method is another one.
    #[error("This path does not answer {}.", shown_method(.0))]
    Method(http::Method),
    /// No model of that name.
    #[error("There is no model {asked:?}; there {}.", list(.known))]
    UnknownModel {
        /// The name in the request.
        asked: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A model that is there, and that `MODEL_NAME` does not select.
    #[error(
        "{model} is not served: MODEL_NAME={model_name} does not select it. Add it there and restart, or load it with POST /v2/repository/models/{model}/load."
    )]
    Unselected {
        /// The model.
        model: String,
        /// The value of `MODEL_NAME`.
        model_name: String,
    },
    /// Several models, and the request names none.
    #[error("Several models are served; name one in the path: {}.", .0.join(", "))]
    NameAModel(Vec<String>),
    /// No such version of a model that there is.
    #[error("{model} has no version {asked:?}; there {}.", list(.known))]
    UnknownVersion {
        /// The model.
        model: String,
        /// The version in the request.
        asked: String,
        /// The versions there are.
        known: Vec<String>,
    },
    /// A model whose files have not been read, or could not be.
    #[error("{model} cannot be asked now: {reason}.")]
    NotLoaded {
        /// The model.
        model: String,
        /// Why not.
        reason: String,
    },
    /// A picture for a model that takes none, or more than one.
    #[error("{0} does not take a picture; programs ask it at POST /v2/models/{0}/infer.")]
    NoPictures(String),
    /// A picture for a model that could take pictures, and has no settings that say how.
    #[error("{model} does not take a picture yet. {remedy}.")]
    NoImageSettings {
        /// The model.
        model: String,
        /// Which settings to write, and where.
        remedy: String,
    },
    /// One array for a model that takes several.
    #[error("{0} does not take one array; programs ask it at POST /v2/models/{0}/infer.")]
    NoArrays(String),
    /// An array of another shape, or with numbers that the model's datatype cannot hold.
    #[error("{0}.")]
    Misfit(#[from] ToTensorError),
    /// The result cannot be given in the form of its task.
    #[error("{0}; POST /v2/models/NAME/infer gives all outputs as tensors, also in binary form.")]
    NoPrediction(#[from] PredictionError),
    /// A `top_k` that is no number of classes.
    #[error("{0}.")]
    TopK(#[from] InvalidTopK),
    /// A query that cannot be read.
    #[error("{0}.")]
    Query(String),
    /// An image is wanted, and the result has none, or several.
    #[error("The result has {0} images, and image/png can carry one; ask for application/json.")]
    NotOneImage(usize),
    /// `REPOSITORY_API=off`.
    #[error("Models are not loaded or unloaded over this port: REPOSITORY_API is off.")]
    RepositoryClosed,
    /// Some replicas of `model_api` did as they were told, and one did not.
    #[error("Replica {failed} of {replicas} failed: {reason} The others did it; trying again is safe.")]
    Replica {
        /// The first that failed, counted from one.
        failed: usize,
        /// How many there are.
        replicas: usize,
        /// What it said.
        reason: Box<Error>,
    },
    /// `only-if-cached`, and it is not.
    #[error("The answer is not remembered, or the request forbids to look, and it allows no other.")]
    NotRemembered,
    /// `MAX_CONCURRENT_REQUESTS` are on their way, or the initial window of one model is full.
    #[error("Too many requests at the same time; try again shortly.")]
    Busy,
    /// `model_api` sheds load of this model, or has just done so.
    #[error(
        "The model {model:?} is overloaded: it is sent more requests than it can answer. Try again in {retry_after_s} s."
    )]
    Overloaded {
        /// The model.
        model: String,
        /// How long the caller is to wait, s.
        retry_after_s: u32,
    },
    /// `model_api` said no, in words that are meant for the caller.
    #[error("{0}")]
    Model(open_inference::Error),
    /// A step of a pipeline had no answer.
    #[error("step {step:?}: {error}")]
    Step {
        /// Which.
        step: String,
        /// Why not.
        error: Box<Error>,
    },
    /// `model_api` cannot be reached.
    #[error("The model cannot be reached at the moment; answers that are remembered are still given.")]
    ModelUnreachable,
    /// `model_api` took too long.
    #[error("The model did not answer in time.")]
    Deadline,
    /// Redis cannot be reached where that matters.
    #[error("The durable memory does not answer, so perhaps not everything has been forgotten; try again shortly.")]
    MemoryUnavailable,
    /// A request about jobs that says something else.
    #[error("{0}.")]
    Job(String),
    /// A body that holds no inputs in a form we read.
    #[error(
        "{0:?} holds no inputs: send a form with files, a ZIP or TAR of pictures, or requests for inference as a JSON list or NDJSON."
    )]
    JobMediaType(String),
    /// An archive that is not taken.
    #[error("{0}.")]
    Archive(#[from] ArchiveError),
    /// A job of nothing.
    #[error("There is no input in it.")]
    NoInputs,
    /// A job of files none of which is an image.
    #[error("There is no image in it: {}. Send images, or a ZIP or TAR of images.", skipped_words(.0))]
    NoImages(Skipped),
    /// A job of more than one job may be.
    #[error("{sent} inputs or more are too many for one job; {most} are the most.")]
    TooManyInputs {
        /// How many were read.
        sent: usize,
        /// How many there may be.
        most: usize,
    },
    /// No such job, and none that is remembered to have been.
    #[error("There is no such job, or it expired long ago.")]
    UnknownJob,
    /// A job that was forgotten when its time was over.
    #[error("The job has expired, and its results with it.")]
    JobGone,
    /// A job in which nothing has failed, or that has not ended.
    #[error("There is nothing to try again: only a failed job has inputs that can be.")]
    NothingToRetry,
    /// As many requests listen to jobs as may.
    #[error("{most} requests wait for events of jobs already, and that is the most; try again shortly.")]
    TooManyListeners {
        /// The limit: of one job, or of all.
        most: usize,
    },
    /// `JOB_LIST=off`.
    #[error("Jobs are not listed over this port: JOB_LIST is off.")]
    JobListClosed,
    /// `WEBHOOK_ALLOW` is unset.
    #[error("Nobody is told when a job has ended: WEBHOOK_ALLOW names no hosts.")]
    NoWebhooks,
    /// A webhook that is not called.
    #[error("The webhook cannot be called: {0}.")]
    Webhook(#[from] BadWebhook),
    /// The queue did not do it.
    #[error("{}", job_words(.0))]
    Queue(#[from] JobError),
    /// Ours.
    #[error("An error of ours; it is in the log under this request's id.")]
    Internal,
}

impl Error {
    /// The one table: HTTP status, and the label in metrics.
    pub fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::NoImage => (StatusCode::BAD_REQUEST, "no_image"),
            Self::SeveralImages => (StatusCode::BAD_REQUEST, "several_images"),
            Self::WrongField(_) => (StatusCode::BAD_REQUEST, "wrong_field"),
            Self::Form(_) => (StatusCode::BAD_REQUEST, "form"),
            Self::MediaType(_) | Self::JobMediaType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type"),
            Self::Json(_) => (StatusCode::BAD_REQUEST, "json"),
            Self::Body(error) | Self::Archive(ArchiveError::Memory(error)) => (error.status(), "body"),
            Self::NoRoute => (StatusCode::NOT_FOUND, "no_route"),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "method"),
            Self::UnknownModel { .. } | Self::Unselected { .. } => (StatusCode::NOT_FOUND, "unknown_model"),
            Self::NameAModel(_) => (StatusCode::UNPROCESSABLE_ENTITY, "name_a_model"),
            Self::UnknownVersion { .. } => (StatusCode::NOT_FOUND, "unknown_version"),
            Self::NotLoaded { .. } => (StatusCode::SERVICE_UNAVAILABLE, "not_loaded"),
            Self::NoPictures(_) | Self::NoImageSettings { .. } | Self::NoArrays(_) | Self::Misfit(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "unfit")
            }
            Self::NoPrediction(_) => (StatusCode::UNPROCESSABLE_ENTITY, "no_prediction"),
            Self::TopK(_) | Self::Query(_) => (StatusCode::BAD_REQUEST, "query"),
            Self::NotOneImage(_) => (StatusCode::NOT_ACCEPTABLE, "not_one_image"),
            Self::RepositoryClosed => (StatusCode::FORBIDDEN, "repository_closed"),
            Self::Replica { reason, .. } => reason.status(),
            Self::NotRemembered => (StatusCode::GATEWAY_TIMEOUT, "not_remembered"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Self::Overloaded { .. } => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::Model(error) => (model_status(error.status), "model"),
            Self::Step { error, .. } => error.status(),
            Self::ModelUnreachable => (StatusCode::SERVICE_UNAVAILABLE, "model_unreachable"),
            Self::Deadline => (StatusCode::GATEWAY_TIMEOUT, "deadline"),
            Self::MemoryUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "memory_unavailable"),
            Self::Job(_) | Self::NoInputs | Self::NoImages(_) => (StatusCode::BAD_REQUEST, "job"),
            Self::Archive(ArchiveError::TooMuch(_) | ArchiveError::Ratio(_)) | Self::TooManyInputs { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too_many_inputs")
            }
            Self::Archive(ArchiveError::EntryTooLarge(..)) | Self::Queue(JobError::LargeInput { .. }) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "large_input")
            }
            Self::Archive(_) => (StatusCode::BAD_REQUEST, "archive"),
            Self::UnknownJob => (StatusCode::NOT_FOUND, "unknown_job"),
            Self::JobGone => (StatusCode::GONE, "job_gone"),
            Self::NothingToRetry | Self::Queue(JobError::Conflict) => (StatusCode::CONFLICT, "job_conflict"),
            Self::TooManyListeners { .. } => (StatusCode::SERVICE_UNAVAILABLE, "listeners"),
            Self::JobListClosed => (StatusCode::FORBIDDEN, "job_list_closed"),
            Self::NoWebhooks => (StatusCode::FORBIDDEN, "no_webhooks"),
            Self::Webhook(_) => (StatusCode::UNPROCESSABLE_ENTITY, "webhook"),
            Self::Queue(JobError::Unreadable { .. }) => (StatusCode::INTERNAL_SERVER_ERROR, "queue"),
            Self::Queue(_) => (StatusCode::SERVICE_UNAVAILABLE, "queue"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }
}

impl Error {
    /// How long the caller is asked to stay away, where he may come back: as long as `model_api` says, where it does.
    pub(crate) fn retry_after_s(&self) -> u32 {
        match self {
            Self::Model(error) => error.retry_after_s,
            Self::Overloaded { retry_after_s, .. } => *retry_after_s,
            Self::Step { error, .. } => error.retry_after_s(),
            _ => RETRY_AFTER_SECONDS,
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        problem_with_retry_after(self.status().0, &self.to_string(), self.retry_after_s())
    }
}

/// In the protocol's shape.
impl From<Error> for open_inference::Error {
    fn from(error: Error) -> Self {
        let retry_after_s = error.retry_after_s();
        Self { retry_after_s, ..Self::new(error.status().0, error.to_string()) }
    }
}

/// A status that no error has would be ours to explain.
fn model_status(status: StatusCode) -> StatusCode {
    if status.is_client_error() || status.is_server_error() { status } else { StatusCode::BAD_GATEWAY }
}

fn job_words(error: &JobError) -> String {
    match error {
        JobError::Unavailable => "The queue for jobs does not answer at the moment; try again shortly.".to_owned(),
        JobError::Full => "The queue for jobs has no room for more at the moment; try again later.".to_owned(),
        JobError::Long(length) => format!("{length} inputs wait for this model already; try again later."),
        JobError::Share(share) => format!(
            "The jobs from this address hold {} {}, and this one would add {}; at the moment they may hold {} of the queue. Delete jobs that have ended (DELETE /jobs/{{id}}), or try again later.",
            share.held, share.unit, share.more, share.most
        ),
        JobError::Unreadable { job, field } => format!("The field {field:?} of the job {job} in Redis cannot be read."),
        JobError::Conflict => "The Idempotency-Key was used for another job.".to_owned(),
        JobError::LargeInput { bytes, most } => {
            format!(
                "An input has {bytes} bytes; the queue takes at most {most} bytes for each. POST /predict takes larger ones."
            )
        }
    }
}

/// An error is no echo: a method is any word that a client likes, of any length.
fn shown_method(method: &http::Method) -> &str {
    if method.as_str().len() > MAX_SHOWN_METHOD { "this method" } else { method.as_str() }
}

fn skipped_words(skipped: &Skipped) -> String {
    let names: Vec<String> = skipped.names.iter().take(3).map(|name| format!("{name:?}")).collect();
    let more = if skipped.count as usize > names.len() { ", …" } else { "" };
    let files =
        if skipped.count == 1 { "1 file was skipped" } else { &format!("{} files were skipped", skipped.count) };
    format!("{files} ({}{more})", names.join(", "))
}

fn list(names: &[String]) -> String {
    match names {
        [] => "is none at the moment".to_owned(),
        [one] => format!("is {one}"),
        several => format!("are {}", several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use contract::TopK;
    use db_api::jobs::{JobId, Share};

    use super::*;

    /// Every error, and the status that it must have.
    fn table() -> Vec<(Error, u16)> {
        let model = |status| Error::Model(open_inference::Error::new(StatusCode::from_u16(status).unwrap(), "d"));
        let name = || "m".to_owned();
        vec![
            (Error::NoImage, 400),
            (Error::SeveralImages, 400),
            (Error::WrongField("picture".to_owned()), 400),
            (Error::Form("no boundary".to_owned()), 400),
            (Error::MediaType("text/plain".to_owned()), 415),
            (Error::Json("ragged".to_owned()), 400),
            (Error::Body(BodyError::TooLarge(1)), 413),
            (Error::Body(BodyError::TooSlow(Duration::ZERO)), 408),
            (Error::Body(BodyError::NoMemory), 503),
            (Error::Body(BodyError::Incomplete), 400),
            (Error::Body(BodyError::Stalled), 408),
            (Error::Body(BodyError::TooMuchMemory { max: 1 }), 413),
            (Error::Archive(ArchiveError::Memory(BodyError::NoMemory)), 503),
            (Error::NoRoute, 404),
            (Error::Method(http::Method::PUT), 405),
            (Error::UnknownModel { asked: "x".to_owned(), known: vec![] }, 404),
            (Error::Unselected { model: name(), model_name: "x".to_owned() }, 404),
            (Error::NameAModel(vec![]), 422),
            (Error::NotRemembered, 504),
            (Error::Busy, 503),
            (Error::Overloaded { model: name(), retry_after_s: 2 }, 503),
            (model(422), 422),
            (model(200), 502),
            (Error::Step { step: name(), error: Box::new(Error::Busy) }, 503),
            (Error::Replica { failed: 1, replicas: 2, reason: Box::new(model(409)) }, 409),
            (Error::UnknownVersion { model: name(), asked: "7".to_owned(), known: vec![] }, 404),
            (Error::NotLoaded { model: name(), reason: "is being read".to_owned() }, 503),
            (Error::NoPictures(name()), 422),
            (Error::NoImageSettings { model: name(), remedy: "Write".to_owned() }, 422),
            (Error::NoArrays(name()), 422),
            (Error::NoPrediction(PredictionError::NotFinite), 422),
            (Error::TopK("0".parse::<TopK>().unwrap_err()), 400),
            (Error::Query("twice".to_owned()), 400),
            (Error::NotOneImage(2), 406),
            (Error::RepositoryClosed, 403),
            (Error::ModelUnreachable, 503),
            (Error::Deadline, 504),
            (Error::MemoryUnavailable, 503),
            (Error::Job("no list".to_owned()), 400),
            (Error::JobMediaType("text/plain".to_owned()), 415),
            (Error::Archive(ArchiveError::Unsafe("../x".to_owned())), 400),
            (Error::Archive(ArchiveError::TooMuch("3 files".to_owned())), 413),
            (Error::NoInputs, 400),
            (Error::NoImages(Skipped::default()), 400),
            (Error::Archive(ArchiveError::Ratio(1)), 413),
            (Error::Archive(ArchiveError::EntryTooLarge("a".to_owned(), 1)), 413),
            (Error::Archive(ArchiveError::Encrypted("a".to_owned())), 400),
            (Error::Queue(JobError::LargeInput { bytes: 2, most: 1 }), 413),
            (Error::TooManyInputs { sent: 2, most: 1 }, 413),
            (Error::UnknownJob, 404),
            (Error::JobGone, 410),
            (Error::NothingToRetry, 409),
            (Error::TooManyListeners { most: 1 }, 503),
            (Error::JobListClosed, 403),
            (Error::NoWebhooks, 403),
            (Error::Webhook(BadWebhook::Scheme), 422),
            (Error::Queue(JobError::Conflict), 409),
            (Error::Queue(JobError::Full), 503),
            (Error::Queue(JobError::Long(7)), 503),
            (Error::Queue(JobError::Unavailable), 503),
            (Error::Queue(JobError::Share(Share { held: 1, more: 2, most: 2, unit: "bytes" })), 503),
            (Error::Queue(JobError::Unreadable { job: JobId::random(), field: "total".to_owned() }), 500),
            (Error::Internal, 500),
        ]
    }

    #[test]
    fn every_error_has_its_status() {
        for (error, status) in table() {
            assert_eq!(error.status().0.as_u16(), status, "{error}");
        }
    }

    /// Statuses of the protocol's own routes, which this table has none of: no acceptable form, and a load with files.
    const PROTOCOL: [u16; 2] = [406, 501];

    /// A method that a path does not have is not described.
    const NOWHERE: [u16; 1] = [405];

    #[test]
    fn the_description_names_the_statuses_that_there_are_and_no_others() {
        let document = crate::openapi::describe(&[], false);
        let operations =
            document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
        let responses = operations.filter_map(|operation| operation["responses"].as_object());
        let described = responses.flat_map(|all| all.keys()).map(|status| status.parse().unwrap());
        let described: BTreeSet<u16> = described.filter(|&status: &u16| status >= 400).collect();
        let ours = table().into_iter().map(|(_, status)| status).filter(|status| !NOWHERE.contains(status));
        assert_eq!(described, ours.chain(PROTOCOL).collect());
    }
}
