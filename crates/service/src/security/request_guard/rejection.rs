//! Responses to rejected requests.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode};

use crate::response::grpc_status;
use crate::response::problem::problem;

/// Length limit of a header value that an error quotes.
const MAX_QUOTED_BYTES: usize = 64;

/// Why a request is rejected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub status: StatusCode,
    pub detail: String,
}

impl Rejection {
    pub fn bad_host(detail: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, detail: format!("{detail} (RFC 9112, section 3.2).") }
    }

    pub fn unknown_host(authority: &str) -> Self {
        let detail = format!(
            "The host \"{}\" is not a name of this server; use localhost or an IP address, or add the name to ALLOWED_HOSTS.",
            quoted(authority.as_bytes())
        );
        Self { status: StatusCode::MISDIRECTED_REQUEST, detail }
    }

    pub fn cross_origin(origin: Option<&HeaderValue>) -> Self {
        let from = origin.map_or("another origin".to_owned(), |origin| format!("\"{}\"", quoted(origin.as_bytes())));
        let detail = format!("Pages of {from} may not send this request; add the origin to CORS_ALLOW_ORIGINS.");
        Self { status: StatusCode::FORBIDDEN, detail }
    }

    pub fn browser() -> Self {
        let detail = "This service accepts no requests from browsers; send requests with Origin or Sec-Fetch headers to web_api.";
        Self { status: StatusCode::FORBIDDEN, detail: detail.to_owned() }
    }

    /// Response in the format of the path's clients: gRPC, Open Inference Protocol or problem document.
    pub fn respond(self, path: &str, is_grpc: bool) -> Response {
        let Self { status, detail } = self;
        if is_grpc {
            return grpc_status::reject(status, &detail);
        }
        if path == "/v2" || path.starts_with("/v2/") {
            return (status, axum::Json(serde_json::json!({ "error": detail }))).into_response();
        }
        problem(status, &detail)
    }
}

fn quoted(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(MAX_QUOTED_BYTES)];
    format!("{}{}", cut.escape_ascii(), if cut.len() < bytes.len() { "..." } else { "" })
}
