//! Conversion of errors to gRPC statuses.

use tonic::Status;

use crate::error::Error;

/// Maximum length of a status message in bytes. It is sent in a header, and clients limit the size of headers.
const MAX_MESSAGE_BYTES: usize = 2048;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let (code, is_retryable) = (error.code(), error.is_retryable());
        let mut message = error.message;
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        let mut status = Self::new(code, message);
        if is_retryable {
            status.metadata_mut().insert("retry-after", error.retry_after_s.into());
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    #[test]
    fn only_retryable_errors_have_retry_after() {
        let retry_after = |status| {
            let status = Status::from(Error::new(status, "message"));
            status.metadata().get("retry-after").map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(retry_after(StatusCode::SERVICE_UNAVAILABLE).as_deref(), Some("1"));
        assert_eq!(retry_after(StatusCode::TOO_MANY_REQUESTS).as_deref(), Some("1"));
        for never in [StatusCode::NOT_FOUND, StatusCode::PAYLOAD_TOO_LARGE] {
            assert_eq!(retry_after(never), None);
        }
    }

    #[test]
    fn a_long_message_is_truncated_between_characters() {
        let status = Status::from(Error::malformed("é".repeat(MAX_MESSAGE_BYTES)));
        assert_eq!(status.message(), "é".repeat(MAX_MESSAGE_BYTES / 2));
    }
}
