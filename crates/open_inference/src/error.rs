use http::StatusCode;

/// Why there is no answer. The message is for whoever asked: it says what was wrong with this request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The status in HTTP; the gRPC code follows from it.
    pub status: StatusCode,
    /// Words for the caller.
    pub message: String,
}

impl Error {
    /// An error with this status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// 400: the request is not what the protocol says.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 422: a well-formed request that does not fit the model.
    pub fn unfit(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }
}
