use std::collections::BTreeSet;
use std::time::Duration;

use contract::TopK;
use db_api::jobs::{JobId, QuotaExceeded};

use super::*;

/// Every error with its HTTP status, its label in metrics, and its gRPC code.
fn table() -> Vec<(Error, u16, &'static str, i32)> {
    let model = |status| Error::Model(open_inference::Error::new(StatusCode::from_u16(status).unwrap(), "d"));
    let name = || "m".to_owned();
    vec![
        (Error::NoImage, 400, "no_image", 3),
        (Error::MultipleImages, 400, "several_images", 3),
        (Error::MissingImageField("picture".to_owned()), 400, "wrong_field", 3),
        (Error::InvalidForm("no boundary".to_owned()), 400, "form", 3),
        (Error::UnsupportedMediaType("text/plain".to_owned()), 415, "media_type", 3),
        (Error::InvalidJson("ragged".to_owned()), 400, "json", 3),
        (Error::Body(BodyError::TooLarge(1)), 413, "body", 8),
        (Error::Body(BodyError::TooSlow(Duration::ZERO)), 408, "body", 4),
        (Error::Body(BodyError::NoMemory), 503, "body", 14),
        (Error::Body(BodyError::Incomplete), 400, "body", 3),
        (Error::Body(BodyError::Stalled), 408, "body", 4),
        (Error::Body(BodyError::TooMuchMemory { max: 1 }), 413, "body", 8),
        (Error::Archive(ArchiveError::Memory(BodyError::NoMemory)), 503, "body", 14),
        (Error::RouteNotFound, 404, "no_route", 5),
        (Error::MethodNotAllowed(http::Method::PUT), 405, "method", 13),
        (Error::UnknownModel { requested: "x".to_owned(), available: vec![] }, 404, "unknown_model", 5),
        (Error::ModelNotSelected { model: name(), model_name: "x".to_owned() }, 404, "unknown_model", 5),
        (Error::ModelNameRequired(vec![]), 422, "name_a_model", 3),
        (Error::NotCached, 504, "not_remembered", 4),
        (Error::Busy, 503, "busy", 14),
        (Error::Overloaded { model: name(), retry_after_s: 2 }, 503, "overloaded", 14),
        (model(422), 422, "model", 3),
        (model(200), 502, "model", 13),
        (Error::PipelineStep { step: name(), error: Box::new(Error::Busy) }, 503, "busy", 14),
        (Error::ReplicaFailed { failed: 1, replicas: 2, reason: Box::new(model(409)) }, 409, "model", 9),
        (
            Error::UnknownVersion { model: name(), requested: "7".to_owned(), available: vec![] },
            404,
            "unknown_version",
            5,
        ),
        (Error::ModelNotReady { model: name(), reason: "is being read".to_owned() }, 503, "not_loaded", 14),
        (Error::ImageNotAccepted(name()), 422, "unfit", 3),
        (Error::ImageSettingsMissing { model: name(), remedy: "Write".to_owned() }, 422, "unfit", 3),
        (Error::ArrayNotAccepted(name()), 422, "unfit", 3),
        (Error::UnrepresentableResult(PredictionError::NotFinite), 422, "no_prediction", 3),
        (Error::InvalidTopK("0".parse::<TopK>().unwrap_err()), 400, "query", 3),
        (Error::InvalidQuery("twice".to_owned()), 400, "query", 3),
        (Error::NotOneImage(2), 406, "not_one_image", 13),
        (Error::RepositoryApiDisabled, 403, "repository_closed", 7),
        (Error::ModelUnreachable, 503, "model_unreachable", 14),
        (Error::DeadlineExceeded, 504, "deadline", 4),
        (Error::CacheUnavailable, 503, "memory_unavailable", 14),
        (Error::InvalidJobRequest("no list".to_owned()), 400, "job", 3),
        (Error::UnsupportedJobMediaType("text/plain".to_owned()), 415, "media_type", 3),
        (Error::Archive(ArchiveError::Unsafe("../x".to_owned())), 400, "archive", 3),
        (Error::Archive(ArchiveError::TooMuch("3 files".to_owned())), 413, "too_many_inputs", 8),
        (Error::NoInputs, 400, "job", 3),
        (Error::NoImageInputs(SkippedFiles::default()), 400, "job", 3),
        (Error::Archive(ArchiveError::Ratio(1)), 413, "too_many_inputs", 8),
        (Error::Archive(ArchiveError::EntryTooLarge("a".to_owned(), 1)), 413, "large_input", 8),
        (Error::Archive(ArchiveError::Encrypted("a".to_owned())), 400, "archive", 3),
        (Error::JobQueue(JobError::InputTooLarge { bytes: 2, limit: 1 }), 413, "large_input", 8),
        (Error::TooManyInputs { sent: 2, max: 1 }, 413, "too_many_inputs", 8),
        (Error::UnknownJob, 404, "unknown_job", 5),
        (Error::JobExpired, 410, "job_gone", 13),
        (Error::NothingToRetry, 409, "job_conflict", 9),
        (Error::TooManyListeners { max: 1 }, 503, "listeners", 14),
        (Error::JobListDisabled, 403, "job_list_closed", 7),
        (Error::WebhooksDisabled, 403, "no_webhooks", 7),
        (Error::Webhook(InvalidWebhook::UnsupportedScheme), 422, "webhook", 3),
        (Error::JobQueue(JobError::Conflict), 409, "job_conflict", 9),
        (Error::JobQueue(JobError::OutOfMemory), 503, "queue", 14),
        (Error::JobQueue(JobError::QueueFull(7)), 503, "queue", 14),
        (Error::JobQueue(JobError::Unavailable), 503, "queue", 14),
        (
            Error::JobQueue(JobError::QuotaExceeded(QuotaExceeded { used: 1, requested: 2, limit: 2, unit: "bytes" })),
            503,
            "queue",
            14,
        ),
        (Error::JobQueue(JobError::CorruptJob { job: JobId::random(), field: "total".to_owned() }), 500, "queue", 13),
        (Error::Internal, 500, "internal", 13),
    ]
}

#[test]
fn every_error_has_its_status_label_and_grpc_code() {
    for (error, status, label, code) in table() {
        assert_eq!(error.status(), (StatusCode::from_u16(status).unwrap(), label), "{error}");
        assert_eq!(open_inference::Error::from(error.clone()).code() as i32, code, "{error}");
    }
}

/// Statuses that only routes of the Open Inference Protocol return: 406, and 501 for a load request with files.
const PROTOCOL: [u16; 2] = [406, 501];

/// Status of methods that a path does not have. `OpenAPI` does not describe it.
const UNDESCRIBED: [u16; 1] = [405];

#[test]
fn openapi_describes_all_statuses_of_errors_and_no_others() {
    let document = crate::openapi::describe(&[], false);
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
    let responses = operations.filter_map(|operation| operation["responses"].as_object());
    let described = responses.flat_map(|all| all.keys()).map(|status| status.parse().unwrap());
    let described: BTreeSet<u16> = described.filter(|&status: &u16| status >= 400).collect();
    let ours = table().into_iter().map(|(_, status, ..)| status).filter(|status| !UNDESCRIBED.contains(status));
    assert_eq!(described, ours.chain(PROTOCOL).collect());
}
