use std::borrow::Cow;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use contract::ModelDescription;
use db_api::jobs::{Asked, Caller, Content, Input, Job, JobId, Kind, NewJob, Once, Skipped, Upload};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use percent_encoding::percent_decode_str;
use service::peer::Peer;

use super::body::{JobBody, fresh_json};
use super::job_path::find;
use crate::app::App;
use crate::error::Error;
use crate::replay::{Reach, Replay, Replayed};
use crate::routes::predict::top_k;
use crate::submission::{Submission, digest, idempotency_key};
use crate::upload::ImageUpload;

/// Inputs looked up in the memory at the same time.
const AT_A_TIME: usize = 32;

/// `POST /jobs`
pub async fn submit(
    State(app): State<App>,
    Extension(replay): Extension<Replay>,
    peer: Option<Extension<Peer>>,
    submission: Submission,
) -> Result<Response, Error> {
    let Submission { model, asked, webhook, key, .. } = &submission;
    let default = app.catalog.find(model.as_deref())?;
    let model = app.catalog.find_version(&default.name, asked.version.as_deref())?;
    let digest = submission.digest(&model.name);
    let caller = caller(peer.as_deref());
    let content = content(&app, &model, &digest);
    if key.is_none()
        && webhook.is_none()
        && let Some(content) = &content
        && let Ok(Some(id)) = app.jobs.repeat(&model.name, content, &caller).await
    {
        return accepted(&app, id).await;
    }
    let mut upload = app.jobs.upload(caller);
    let skipped = match send(&app, &replay, &model, &submission, &mut upload).await {
        Ok(skipped) => skipped,
        Err(error) => {
            app.jobs.discard(upload).await;
            return Err(error);
        }
    };
    let once = key.clone().map(|key| Once { key, digest });
    let (model, asked, webhook) = (model.name.clone(), asked.clone(), webhook.clone());
    let job = NewJob { model, asked, inputs: Vec::new(), once, content, webhook, ttl: None, skipped };
    let id = app.jobs.submit_uploaded(upload, job).await?;
    accepted(&app, id).await
}

/// Whose share of the queue a job counts against.
fn caller(peer: Option<&Peer>) -> Caller {
    peer.map_or_else(Caller::default, |peer| Caller::from(peer.0))
}

/// Reads the inputs and sends them to the queue, a piece at a time.
async fn send(
    app: &App,
    replay: &Replay,
    model: &ModelDescription,
    submission: &Submission,
    upload: &mut Upload,
) -> Result<Skipped, Error> {
    let mut inputs = submission.inputs(app, model);
    loop {
        let (piece, rest) = inputs.next(app).await?;
        inputs = rest;
        if piece.is_empty() {
            return inputs.skipped();
        }
        for input in recall(replay, &model.name, &submission.asked, piece).await {
            upload.push(input).await?;
        }
    }
}

/// What decides a job's answers; nothing does where the model may be another one without our knowledge, or where its
/// results are not cached.
fn content(app: &App, model: &ModelDescription, asked: &str) -> Option<Content> {
    let (version, digest) = (model.version.as_str(), model.digest.as_str());
    (!digest.is_empty() && model.not_cached.is_none()).then(|| Content {
        digest: [app.app_type.as_str(), version, digest, asked].join(" "),
        model_digest: digest.to_owned(),
    })
}

/// What is remembered, or wrong at first sight, need not wait.
async fn recall(replay: &Replay, model: &str, asked: &Asked, inputs: Vec<Input>) -> Vec<Input> {
    let recall = |input: Input| async move {
        let known = match replay.ask(model, asked, input.data.clone(), Reach::Memory).await {
            Replayed::Ended(outcome) => Some(outcome),
            Replayed::NoAnswer(_) | Replayed::NoModel(_) | Replayed::Later(_) => None,
        };
        Input { known, ..input }
    };
    stream::iter(inputs).map(recall).buffered(AT_A_TIME).collect().await
}

/// 202, or 200 when there is nothing left to do.
async fn accepted(app: &App, id: JobId) -> Result<Response, Error> {
    let job = find(app, id).await?;
    let status = if job.status.has_ended() { StatusCode::OK } else { StatusCode::ACCEPTED };
    respond(app, &job, status)
}

fn respond(app: &App, job: &Job, status: StatusCode) -> Result<Response, Error> {
    let mut response = fresh_json(status, &JobBody::new(app, job))?;
    let location = HeaderValue::try_from(format!("/jobs/{}", job.id)).map_err(|_| Error::Internal)?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// `Prefer: respond-async` (RFC 7240 §4.1) around the routes that answer at once: what is remembered, or wrong at first sight, still is
/// answered at once; anything else becomes a job of one input.
pub async fn respond_async(State(app): State<App>, request: Request, next: Next) -> Response {
    match Question::of(request.uri().path()) {
        Some(question) if prefers_async(request.headers()) && request.method() == Method::POST => {
            let kind = question.kind;
            try_at_once(&app, question, request, next).await.unwrap_or_else(|error| refuse(kind, error))
        }
        _ => next.run(request).await,
    }
}

/// What a path asks.
struct Question {
    model: Option<String>,
    version: Option<String>,
    kind: Kind,
}

impl Question {
    fn of(path: &str) -> Option<Self> {
        // As the router compares them.
        let decoded = |part| percent_decode_str(part).decode_utf8().ok();
        let parts: Vec<Cow<str>> = path.trim_start_matches('/').split('/').map(decoded).collect::<Option<_>>()?;
        let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        let (model, version, kind) = match parts[..] {
            ["predict"] => (None, None, Kind::Image),
            ["predict", model] => (Some(model), None, Kind::Image),
            ["v2", "models", model, "infer"] => (Some(model), None, Kind::V2),
            ["v2", "models", model, "versions", version, "infer"] => (Some(model), Some(version), Kind::V2),
            _ => return None,
        };
        Some(Self { model: model.map(str::to_owned), version: version.map(str::to_owned), kind })
    }
}

async fn try_at_once(app: &App, question: Question, request: Request, next: Next) -> Result<Response, Error> {
    let (parts, body) = request.into_parts();
    let body = app.bodies.read(&parts, body).await?;
    let again = || {
        let mut again = Request::new(Body::from(body.bytes.clone()));
        *again.method_mut() = parts.method.clone();
        *again.uri_mut() = parts.uri.clone();
        *again.headers_mut() = parts.headers.clone();
        again.extensions_mut().clone_from(&parts.extensions);
        again
    };
    let mut at_once = again();
    at_once.headers_mut().append(header::CACHE_CONTROL, HeaderValue::from_static("only-if-cached"));
    let response = next.run(at_once).await;
    if response.status() != StatusCode::GATEWAY_TIMEOUT {
        return Ok(response);
    }
    let key = idempotency_key(&parts.headers)?;
    let (model, data, asked) = match question.kind {
        Kind::Image => {
            let upload = ImageUpload::read(again(), app).await.map_err(|rejected| rejected.error)?;
            let top_k = top_k(parts.uri.query())?.query_value();
            let asked =
                Asked { kind: Kind::Image, version: None, content_type: String::new(), json_length: None, top_k };
            (question.model.or(upload.model.clone()), upload.image.clone(), asked)
        }
        Kind::V2 => (question.model, body.bytes.clone(), asked_in(&parts.headers, question.version)),
    };
    let model = app.catalog.find(model.as_deref())?.name.clone();
    let inputs = vec![Input { name: String::new(), data, known: None }];
    let once = key.map(|key| Once { key, digest: digest(&model, &asked, &inputs[0].data) });
    let skipped = Skipped::default();
    let job = NewJob { model, asked, inputs, once, content: None, webhook: None, ttl: None, skipped };
    let upload = app.jobs.upload(caller(parts.extensions.get::<Peer>()));
    let id = app.jobs.submit_uploaded(upload, job).await?;
    let mut response = accepted(app, id).await?;
    // Also where the key's job has ended long ago: 200 would say that this is the answer.
    *response.status_mut() = StatusCode::ACCEPTED;
    response.headers_mut().insert("preference-applied", HeaderValue::from_static("respond-async"));
    Ok(response)
}

/// In the words of the route that was asked.
fn refuse(kind: Kind, error: Error) -> Response {
    match kind {
        Kind::Image => error.into_response(),
        Kind::V2 => open_inference::Error::from(error).into_response(),
    }
}

fn asked_in(headers: &HeaderMap, version: Option<String>) -> Asked {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    Asked {
        kind: Kind::V2,
        version,
        content_type: text("content-type").unwrap_or_default().to_owned(),
        json_length: text("inference-header-content-length").and_then(|length| length.parse().ok()),
        top_k: None,
    }
}

/// Packed bodies are answered at once: a preference may be ignored.
pub fn prefers_async(headers: &HeaderMap) -> bool {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    preferences.flat_map(|value| value.split([',', ';'])).any(|word| word.trim().eq_ignore_ascii_case("respond-async"))
        && !headers.contains_key(header::CONTENT_ENCODING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_compared_as_the_router_compares_it() {
        let read = |path| Question::of(path).map(|question| (question.model, question.version));
        let model = |name: &str| Some(name.to_owned());
        assert_eq!(read("/predict/a%2Db%20c"), Some((model("a-b c"), None)));
        assert_eq!(read("/v2/models/%6Dnist/versions/%31/infer"), Some((model("mnist"), model("1"))));
        assert_eq!(read("/predict"), Some((None, None)));
        assert_eq!(read("/predict/%ff"), None);
        assert_eq!(read("/predict/a/b"), None);
    }
}
