//! Middleware that enforces message limits and deadlines.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderMap;
use service::body_limits::BodyReader;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::deadline::{deadline_exceeded, end_at_deadline, parse_deadline};
use super::decoded_size::{infer_request_size, small_message_size};
use super::framing::{Compression, FrameReader, MessageLimits};
use crate::error::Error;

/// Maximum size of a message without tensors. Load parameters are the longest.
const MAX_SMALL_MESSAGE_BYTES: usize = 64 << 10;

/// Bytes that a client may send on a stream before the server reads them: the window that `service::http_server` announces.
const WINDOW_BYTES: usize = 192 << 10;

/// Streaming method of the reflection service.
const REFLECTION_METHOD: &str = "ServerReflectionInfo";

/// Maximum duration of a reflection stream.
const REFLECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Middleware that reads and decompresses the messages of a call within the memory budget, and ends the call at its
/// deadline.
///
/// Compression is handled here, because limits apply to the decompressed size. The response is compressed only where
/// the request is: most clients accept compression, but few benefit from it.
pub async fn enforce_limits(State(bodies): State<BodyReader>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let (deadline, compression) = match (parse_deadline(&parts.headers), request_compression(&parts.headers)) {
        (Ok(deadline), Ok(compression)) => (deadline, compression),
        (Err(status), _) | (_, Err(status)) => return status.into_http(),
    };
    // A stopping server waits for its streams. Inference and health streams end by themselves.
    let is_reflection = parts.uri.path().ends_with(REFLECTION_METHOD);
    let deadline = deadline.or_else(|| is_reflection.then(|| Instant::now() + REFLECTION_TIMEOUT));
    parts.headers.remove("grpc-encoding");
    if compression == Compression::None {
        parts.headers.remove("grpc-accept-encoding");
    }
    let limits = message_limits(parts.uri.path(), &bodies);
    let mut memory = bodies.reservation_for(&parts);
    // Unread data in the window of a stream also takes memory.
    if limits.is_stream
        && let Err(error) = memory.reserve(WINDOW_BYTES)
    {
        return Status::from(Error::from(error)).into_http();
    }
    let reader = FrameReader::new(body, limits, compression, bodies, memory);
    // Held until a unary call has completed. A stream holds its own clone.
    let in_flight = reader.in_flight();
    parts.extensions.insert(in_flight.clone());
    let request = Request::from_parts(parts, reader.into_body());
    let response = match deadline {
        None => next.run(request).await,
        Some(deadline) => match timeout_at(deadline, next.run(request)).await {
            Ok(response) => response.map(|body| end_at_deadline(deadline, body)),
            Err(_) => Status::from(deadline_exceeded()).into_http(),
        },
    };
    drop(in_flight);
    response
}

fn message_limits(path: &str, bodies: &BodyReader) -> MessageLimits {
    let large = bodies.max_bytes();
    let small = large.min(MAX_SMALL_MESSAGE_BYTES);
    match path.rsplit('/').next().unwrap_or_default() {
        "ModelInfer" => MessageLimits { max_bytes: large, is_stream: false, decoded_size: infer_request_size },
        "ModelStreamInfer" => MessageLimits { max_bytes: large, is_stream: true, decoded_size: infer_request_size },
        REFLECTION_METHOD => MessageLimits { max_bytes: small, is_stream: true, decoded_size: small_message_size },
        _ => MessageLimits { max_bytes: small, is_stream: false, decoded_size: small_message_size },
    }
}

fn request_compression(headers: &HeaderMap) -> Result<Compression, Status> {
    match headers.get("grpc-encoding").map(http::HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(Compression::None),
        Some(b"gzip") => Ok(Compression::Gzip),
        Some(b"deflate") => Ok(Compression::Deflate),
        Some(_) => {
            let mut status = Status::unimplemented("grpc-encoding must be gzip, deflate or identity");
            let known = tonic::metadata::MetadataValue::from_static("gzip,deflate,identity");
            status.metadata_mut().insert("grpc-accept-encoding", known);
            Err(status)
        }
    }
}
