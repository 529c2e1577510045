use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderMap;
use service::body_limits::BodyReader;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::deadline;
use super::frames::{Kind, Messages, Packing};
use super::weight;
use crate::Error;

/// What a message without tensors may have. Load parameters are the longest.
const SMALL_MESSAGE: usize = 64 << 10;

/// Bytes that a client may send on a stream before the server reads them: the window that `service::http_server` announces.
const WINDOW_BYTES: usize = 192 << 10;

/// A stream of questions about the services.
const REFLECTION: &str = "ServerReflectionInfo";

/// How long such a stream may stay open.
const LONGEST_REFLECTION: Duration = Duration::from_secs(10);

/// Reads a call's messages within the memory of all bodies and unpacks them, and gives the call up at its deadline.
///
/// Compression is settled here too: a message that unpacks to far more must count as what it becomes. The answer is
/// compressed only for who compressed its request: most clients say that they could read it, few have a use for it.
pub async fn apply(State(bodies): State<BodyReader>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let (deadline, packing) = match (deadline::of(&parts.headers), packing(&parts.headers)) {
        (Ok(deadline), Ok(packing)) => (deadline, packing),
        (Err(status), _) | (_, Err(status)) => return status.into_http(),
    };
    // A server that is stopping waits for its streams; those of questions and of health end by themselves.
    let asks_for_descriptions = parts.uri.path().ends_with(REFLECTION);
    let deadline = deadline.or_else(|| asks_for_descriptions.then(|| Instant::now() + LONGEST_REFLECTION));
    parts.headers.remove("grpc-encoding");
    if packing == Packing::None {
        parts.headers.remove("grpc-accept-encoding");
    }
    let kind = kind(parts.uri.path(), &bodies);
    let mut memory = bodies.reservation_for(&parts);
    // What waits unread in a stream's window is held as well.
    if kind.stream
        && let Err(error) = memory.reserve(WINDOW_BYTES)
    {
        return Status::from(Error::from(error)).into_http();
    }
    let messages = Messages::new(body, kind, packing, bodies, memory);
    // Held until a unary call is answered; a stream holds its own clone.
    let under_way = messages.under_way();
    parts.extensions.insert(under_way.clone());
    let request = Request::from_parts(parts, messages.into_body());
    let response = match deadline {
        None => next.run(request).await,
        Some(deadline) => match timeout_at(deadline, next.run(request)).await {
            Ok(response) => response.map(|body| deadline::end_at(deadline, body)),
            Err(_) => Status::from(deadline::exceeded()).into_http(),
        },
    };
    drop(under_way);
    response
}

fn kind(path: &str, bodies: &BodyReader) -> Kind {
    let large = bodies.max_bytes();
    let small = large.min(SMALL_MESSAGE);
    match path.rsplit('/').next().unwrap_or_default() {
        "ModelInfer" => Kind { limit: large, stream: false, weigh: weight::of_infer_request },
        "ModelStreamInfer" => Kind { limit: large, stream: true, weigh: weight::of_infer_request },
        REFLECTION => Kind { limit: small, stream: true, weigh: weight::of_small_message },
        _ => Kind { limit: small, stream: false, weigh: weight::of_small_message },
    }
}

fn packing(headers: &HeaderMap) -> Result<Packing, Status> {
    match headers.get("grpc-encoding").map(http::HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(Packing::None),
        Some(b"gzip") => Ok(Packing::Gzip),
        Some(b"deflate") => Ok(Packing::Deflate),
        Some(_) => {
            let mut status = Status::unimplemented("grpc-encoding is none of gzip, deflate and identity");
            let known = tonic::metadata::MetadataValue::from_static("gzip,deflate,identity");
            status.metadata_mut().insert("grpc-accept-encoding", known);
            Err(status)
        }
    }
}
