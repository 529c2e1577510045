use db_api::jobs::{JobError, SkippedFiles};
use http::Method;

/// Maximum length of a method name that a message repeats. A client may send a method of any name and length.
const MAX_SHOWN_METHOD: usize = 32;

/// Number of skipped files that a message names.
const MAX_SHOWN_FILES: usize = 3;

pub(super) fn method_message(method: &Method) -> String {
    let name = method.as_str();
    if name.len() > MAX_SHOWN_METHOD {
        return "This method is not allowed for this path.".to_owned();
    }
    format!("Method {name} is not allowed for this path.")
}

/// `available models: a, b`, or `no models are available`.
pub(super) fn available_names(noun: &str, names: &[String]) -> String {
    if names.is_empty() {
        format!("no {noun}s are available")
    } else {
        format!("available {noun}s: {}", names.join(", "))
    }
}

pub(super) fn skipped_files(skipped: &SkippedFiles) -> String {
    let names: Vec<String> = skipped.names.iter().take(MAX_SHOWN_FILES).map(|name| format!("{name:?}")).collect();
    let more = if skipped.count as usize > names.len() { ", …" } else { "" };
    let files =
        if skipped.count == 1 { "1 file was skipped" } else { &format!("{} files were skipped", skipped.count) };
    format!("{files} ({}{more})", names.join(", "))
}

pub(super) fn job_queue_message(error: &JobError) -> String {
    match error {
        JobError::Unavailable => "The job queue does not respond; try again shortly.".to_owned(),
        JobError::OutOfMemory => "The job queue has no room for more inputs; try again later.".to_owned(),
        JobError::QueueFull(length) => format!("{length} inputs already wait for this model; try again later."),
        JobError::QuotaExceeded(quota) => format!(
            "The jobs from this address use {} {}, and this job would add {}; the current limit is {}. Delete finished jobs (DELETE /jobs/{{id}}), or try again later.",
            quota.used, quota.unit, quota.requested, quota.limit
        ),
        JobError::CorruptJob { job, field } => format!("The field {field:?} of the job {job} in Redis is invalid."),
        JobError::Conflict => "The Idempotency-Key was already used for a different job.".to_owned(),
        JobError::InputTooLarge { bytes, limit } => {
            format!(
                "An input has {bytes} bytes; the job queue accepts at most {limit} bytes per input. POST /predict accepts larger ones."
            )
        }
    }
}
