use std::borrow::Cow;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use contract::TopK;
use db_api::jobs::{IdempotencyKey, Input, InputKind, InputSpec, JobId, NewJob, SkippedFiles};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use percent_encoding::percent_decode_str;
use service::peer::Peer;

use super::submit::{accepted, caller};
use crate::error::Error;
use crate::http::extract::image_upload::ImageUpload;
use crate::http::extract::job_submission::{digest, idempotency_key};
use crate::http::extract::top_k::parse_top_k;
use crate::state::AppState;

/// Middleware for `Prefer: respond-async` (RFC 7240 §4.1) on the synchronous inference routes.
///
/// A cached result or an invalid request gets a synchronous response. Any other request becomes a job with one input.
pub async fn respond_async(State(app): State<AppState>, request: Request, next: Next) -> Response {
    match AsyncTarget::from_path(request.uri().path()) {
        Some(target) if prefers_async(request.headers()) && request.method() == Method::POST => {
            let kind = target.kind;
            try_cached(&app, target, request, next).await.unwrap_or_else(|error| error_response(kind, error))
        }
        _ => next.run(request).await,
    }
}

/// Whether a request prefers an asynchronous response. The preference is ignored for compressed bodies.
pub fn prefers_async(headers: &HeaderMap) -> bool {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    preferences.flat_map(|value| value.split([',', ';'])).any(|word| word.trim().eq_ignore_ascii_case("respond-async"))
        && !headers.contains_key(header::CONTENT_ENCODING)
}

/// Model that the path of a synchronous inference route names.
struct AsyncTarget {
    model: Option<String>,
    version: Option<String>,
    kind: InputKind,
}

impl AsyncTarget {
    fn from_path(path: &str) -> Option<Self> {
        // Percent-decoded per segment, as the router does.
        let decoded = |part| percent_decode_str(part).decode_utf8().ok();
        let parts: Vec<Cow<str>> = path.trim_start_matches('/').split('/').map(decoded).collect::<Option<_>>()?;
        let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        let (model, version, kind) = match parts[..] {
            ["predict"] => (None, None, InputKind::Image),
            ["predict", model] => (Some(model), None, InputKind::Image),
            ["v2", "models", model, "infer"] => (Some(model), None, InputKind::V2),
            ["v2", "models", model, "versions", version, "infer"] => (Some(model), Some(version), InputKind::V2),
            _ => return None,
        };
        Some(Self { model: model.map(str::to_owned), version: version.map(str::to_owned), kind })
    }
}

/// Runs the request with `only-if-cached` first, and submits a job where that fails with 504.
async fn try_cached(app: &AppState, target: AsyncTarget, request: Request, next: Next) -> Result<Response, Error> {
    let (parts, body) = request.into_parts();
    let body = app.bodies.read(&parts, body).await?;
    let mut cached_only = copy_of(&parts, body.bytes.clone());
    cached_only.headers_mut().append(header::CACHE_CONTROL, HeaderValue::from_static("only-if-cached"));
    let response = next.run(cached_only).await;
    if response.status() != StatusCode::GATEWAY_TIMEOUT {
        return Ok(response);
    }
    let id = submit_job(app, target, &parts, &body.bytes).await?;
    let mut response = accepted(app, id).await?;
    // Also where an idempotency key refers to a finished job: 200 would mean that the body is the result.
    *response.status_mut() = StatusCode::ACCEPTED;
    response.headers_mut().insert("preference-applied", HeaderValue::from_static("respond-async"));
    Ok(response)
}

async fn submit_job(app: &AppState, target: AsyncTarget, parts: &Parts, body: &Bytes) -> Result<JobId, Error> {
    let key = idempotency_key(&parts.headers)?;
    let (model, data, spec) = match target.kind {
        InputKind::Image => {
            let request = copy_of(parts, body.clone());
            let upload = ImageUpload::read(request, app).await.map_err(|rejection| rejection.error)?;
            let top_k: TopK = parse_top_k(parts.uri.query())?;
            let spec = InputSpec {
                kind: InputKind::Image,
                version: None,
                content_type: String::new(),
                json_length: None,
                top_k: top_k.query_value(),
            };
            (target.model.or(upload.model.clone()), upload.image.clone(), spec)
        }
        InputKind::V2 => (target.model, body.clone(), v2_input_spec(&parts.headers, target.version)),
    };
    let model = app.catalog.find(model.as_deref())?.name.clone();
    let inputs = vec![Input { name: String::new(), data, outcome: None }];
    let idempotency_key = key.map(|key| IdempotencyKey { key, digest: digest(&model, &spec, &inputs[0].data) });
    let skipped = SkippedFiles::default();
    let job = NewJob { model, spec, inputs, idempotency_key, dedup_key: None, webhook: None, ttl: None, skipped };
    let upload = app.jobs.upload(caller(parts.extensions.get::<Peer>()));
    Ok(app.jobs.submit_uploaded(upload, job).await?)
}

fn copy_of(parts: &Parts, body: Bytes) -> Request {
    let mut copy = Request::new(Body::from(body));
    *copy.method_mut() = parts.method.clone();
    *copy.uri_mut() = parts.uri.clone();
    *copy.headers_mut() = parts.headers.clone();
    copy.extensions_mut().clone_from(&parts.extensions);
    copy
}

/// Error in the format of the route.
fn error_response(kind: InputKind, error: Error) -> Response {
    match kind {
        InputKind::Image => error.into_response(),
        InputKind::V2 => open_inference::Error::from(error).into_response(),
    }
}

fn v2_input_spec(headers: &HeaderMap, version: Option<String>) -> InputSpec {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    InputSpec {
        kind: InputKind::V2,
        version,
        content_type: text("content-type").unwrap_or_default().to_owned(),
        json_length: text("inference-header-content-length").and_then(|length| length.parse().ok()),
        top_k: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_like_in_the_router() {
        let parse = |path| AsyncTarget::from_path(path).map(|target| (target.model, target.version));
        let model = |name: &str| Some(name.to_owned());
        assert_eq!(parse("/predict/a%2Db%20c"), Some((model("a-b c"), None)));
        assert_eq!(parse("/v2/models/%6Dnist/versions/%31/infer"), Some((model("mnist"), model("1"))));
        assert_eq!(parse("/predict"), Some((None, None)));
        assert_eq!(parse("/predict/%ff"), None);
        assert_eq!(parse("/predict/a/b"), None);
    }
}
