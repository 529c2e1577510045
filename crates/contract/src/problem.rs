use serde::{Deserialize, Serialize};

/// An error as `application/problem+json` (RFC 9457). `detail` is for the caller: what was wrong with *this* request,
/// never a path, a stack or another service's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The reason phrase of `status`.
    pub title: String,
    /// The HTTP status, repeated for those who only see the body.
    pub status: u16,
    /// What was wrong with this request.
    pub detail: String,
}

impl Problem {
    /// The media type of the body.
    pub const MEDIA_TYPE: &str = "application/problem+json";
}
