use http::{HeaderName, StatusCode};
use service::problem::RETRY_AFTER_SECONDS;
use tonic::Code;

/// The header of a refusal for load, which tells it from every other 503. Its value is `true`.
pub const OVERLOADED: HeaderName = HeaderName::from_static("x-overloaded");

/// Why there is no answer. The message is for whoever asked: it says what was wrong with this request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The status in HTTP; the gRPC code follows from it.
    pub status: StatusCode,
    /// Words for the caller.
    pub message: String,
    /// How long the caller is asked to stay away, s, where the status says that he may come back.
    pub retry_after_s: u32,
    /// Whether the model is sent more than it can answer. REST carries it as the header [`OVERLOADED`](crate::OVERLOADED).
    pub is_overload: bool,
}

impl Error {
    /// An error with this status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after_s: RETRY_AFTER_SECONDS, is_overload: false }
    }

    /// 400: the request is not what the protocol says.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The code in gRPC, by the one table of the server ([`service::grpc_status::code_for_http`]).
    pub fn code(&self) -> Code {
        Code::from(service::grpc_status::code_for_http(self.status))
    }

    /// Whether it may go well in a moment: its caller is told when to come back.
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
    }

    /// 422: a well-formed request that does not fit the model.
    pub fn unfit(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_code() {
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
