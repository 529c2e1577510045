use axum::response::{IntoResponse, Response};
use service::problem::problem_with_retry_after;

use super::Error;
use crate::blocking_pool::WorkPanicked;
use crate::job_views::InvalidResult;

impl From<WorkPanicked> for Error {
    fn from(_: WorkPanicked) -> Self {
        Self::Internal
    }
}

impl From<InvalidResult> for Error {
    fn from(_: InvalidResult) -> Self {
        Self::Internal
    }
}

impl From<multer::Error> for Error {
    fn from(error: multer::Error) -> Self {
        Self::InvalidForm(error.to_string())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        problem_with_retry_after(self.status().0, &self.to_string(), self.retry_after_s())
    }
}

impl From<Error> for open_inference::Error {
    fn from(error: Error) -> Self {
        let retry_after_s = error.retry_after_s();
        Self { retry_after_s, ..Self::new(error.status().0, error.to_string()) }
    }
}
