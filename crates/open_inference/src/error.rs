//! The error type of the protocol, for all transports.

use http::{HeaderName, StatusCode};
use service::body_limits::BodyError;
use service::problem::RETRY_AFTER_SECONDS;
use tonic::Code;

/// Header that distinguishes an overload from every other 503. Its value is `true`.
pub const OVERLOADED_HEADER: HeaderName = HeaderName::from_static("x-overloaded");

/// An error with its HTTP status and a message for the client. The gRPC code is derived from the status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// HTTP status.
    pub status: StatusCode,
    /// Message for the client.
    pub message: String,
    /// Delay in seconds before a retry, where the status permits one.
    pub retry_after_s: u32,
    /// Whether the model is overloaded. REST sends the header [`OVERLOADED_HEADER`](crate::OVERLOADED_HEADER).
    pub is_overload: bool,
}

impl Error {
    /// An error with this status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after_s: RETRY_AFTER_SECONDS, is_overload: false }
    }

    /// 400: the request violates the protocol.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// gRPC code, from the table that all services share ([`service::grpc_status::code_for_http`]).
    pub fn code(&self) -> Code {
        Code::from(service::grpc_status::code_for_http(self.status))
    }

    /// Whether a retry may succeed. The response then has `Retry-After`.
    pub(crate) fn is_retryable(&self) -> bool {
        matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
    }

    /// 422: a valid request that does not match the model's signature.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }
}

impl From<BodyError> for Error {
    fn from(error: BodyError) -> Self {
        Self::new(error.status(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_http_status_maps_to_its_grpc_code() {
        let named = [
            (400, Code::InvalidArgument),
            (403, Code::PermissionDenied),
            (404, Code::NotFound),
            (408, Code::DeadlineExceeded),
            (409, Code::FailedPrecondition),
            (413, Code::ResourceExhausted),
            (415, Code::InvalidArgument),
            (422, Code::InvalidArgument),
            (429, Code::ResourceExhausted),
            (501, Code::Unimplemented),
            (503, Code::Unavailable),
            (504, Code::DeadlineExceeded),
        ];
        for status in 400..600 {
            let code = named.iter().find(|(named, _)| *named == status).map_or(Code::Internal, |(_, code)| *code);
            assert_eq!(Error::new(StatusCode::from_u16(status).unwrap(), "").code(), code, "{status}");
        }
    }
}
