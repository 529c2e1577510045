use std::borrow::Cow;
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use contract::{MAX_JSON_IMAGE_BYTES, ModelDescription, Prediction, PredictionError, TopK, TypedResult};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use open_inference::Task;
use serde::{Deserialize, Serialize};
use service::conditional::etag_matches;
use service::response_body::reserve_response;

use crate::app::App;
use crate::error::Error;
use crate::model_name::ModelName;
use crate::predictor::Answer;
use crate::question::Question;
use crate::routes::page;
use crate::steering::{Provenance, Steering};
use crate::upload::{ImageUpload, Rejected};

/// The body of an answer to a picture: the fields of every task, and those of its own in `result`.
#[derive(Debug, Serialize)]
pub struct AnswerBody<'a> {
    model: &'a str,
    version: &'a str,
    task: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a str>,
    #[serde(flatten)]
    result: &'a TypedResult<'a>,
    cached: bool,
    key: String,
    model_digest: &'a str,
    device: &'a str,
    timing_ms: TimingBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    notice: Option<&'a str>,
}

/// Milliseconds. `total` is this request's; the others are of the run that the answer came from.
#[derive(Debug, Serialize)]
struct TimingBody {
    total: f64,
    decode: f64,
    queue: f64,
    infer: f64,
}

/// `?top_k=`: how many classes are listed.
#[derive(Debug)]
pub struct TopKParameter(pub TopK);

impl<S: Sync> FromRequestParts<S> for TopKParameter {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        top_k(parts.uri.query()).map(Self)
    }
}

/// `top_k` of a query; the default where it is absent.
pub(crate) fn top_k(query: Option<&str>) -> Result<TopK, Error> {
    #[derive(Deserialize)]
    struct Wished {
        top_k: Option<String>,
    }
    let Some(query) = query.filter(|query| query.contains("top_k")) else { return Ok(TopK::Default) };
    let uri = http::Uri::try_from(format!("/?{query}")).map_err(|_| Error::Internal)?;
    let Query(Wished { top_k }) = Query::try_from_uri(&uri).map_err(|error| Error::Query(error.body_text()))?;
    Ok(top_k.map_or(Ok(TopK::Default), |text| text.parse())?)
}

/// An image → an answer, as JSON or PNG or, for a plain form post of the page, as the page.
pub async fn predict(
    State(app): State<App>,
    model: Result<ModelName, Error>,
    top_k: Result<TopKParameter, Error>,
    headers: HeaderMap,
    upload: Result<ImageUpload, Rejected>,
) -> Response {
    let (model, top_k) = match (model, top_k) {
        (Ok(ModelName(model)), Ok(TopKParameter(top_k))) => (model, top_k),
        (Err(error), _) | (_, Err(error)) => return error.into_response(),
    };
    if page::is_wanted(&app, &headers) {
        return Box::pin(page::answer_form(&app, &headers, model, top_k, upload)).await;
    }
    match upload {
        Ok(upload) => answer_request(&app, model, top_k, &headers, upload).await.into_response(),
        Err(rejected) => rejected.into_response(),
    }
}

async fn answer_request(
    app: &App,
    model: Option<String>,
    top_k: TopK,
    headers: &HeaderMap,
    upload: ImageUpload,
) -> Result<Response, Error> {
    let begun = Instant::now();
    let question = ask(app, model.or(upload.model), upload.image).await?;
    let steering = Steering::from_headers(headers);
    if let Some(response) = not_modified(headers, &question, steering) {
        return Ok(response);
    }
    let answer = app.predictor.answer(&question, steering).await?;
    let bytes = answer.entry.inference.outputs.iter().map(|output| output.data.len()).sum();
    let wants_png = accepts_png(headers);
    // Images are encoded, and long tensors written, where no other request waits for it.
    let response =
        app.workbench.run(bytes, move || render(&answer, question.model(), top_k, wants_png, begun)).await??;
    Ok(reserve_response(response, app.bodies.budget().shared_reservation())?)
}

/// The result as a PNG, where it is one and the client accepts it, and else as JSON.
fn render(
    answer: &Answer,
    model: &ModelDescription,
    top_k: TopK,
    wants_png: bool,
    begun: Instant,
) -> Result<Response, Error> {
    let prediction = read_out(answer, model, top_k)?;
    let is_image = matches!(prediction.task, Task::Image | Task::Segmentation);
    let mut response = if is_image && wants_png {
        let [image] = prediction.result.images() else {
            return Err(Error::NotOneImage(prediction.result.images().len()));
        };
        ([(header::CONTENT_TYPE, HeaderValue::from_static("image/png"))], image.file.clone()).into_response()
    } else {
        let bytes = prediction.result.images().iter().map(|image| image.file.len()).sum();
        if bytes > MAX_JSON_IMAGE_BYTES {
            return Err(PredictionError::TooLarge { what: "images", bytes, max: MAX_JSON_IMAGE_BYTES }.into());
        }
        // Into a `Vec`, which takes a quarter of the time that axum's own `Json` does.
        let mut json = Vec::with_capacity(1 << 10);
        let body = AnswerBody::new(answer, &prediction, model, begun);
        serde_json::to_writer(&mut json, &body).map_err(|_| Error::Internal)?;
        ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response()
    };
    if is_image {
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    }
    tell_provenance(response.headers_mut(), answer)?;
    Ok(response)
}

/// Whether `Accept` names `image/png` itself. Browsers accept everything, and mean the JSON of a script.
fn accepts_png(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut ranges = accepted.flat_map(|value| value.split(',')).filter_map(|range| range.split(';').next());
    ranges.any(|range| range.trim().eq_ignore_ascii_case("image/png"))
}

/// Hashing a large picture is work for the bench.
pub(crate) async fn ask(app: &App, model: Option<String>, image: Bytes) -> Result<Question, Error> {
    let asked = app.clone();
    app.workbench.run(image.len(), move || asked.predictor.ask_image(model.as_deref(), image)).await?
}

/// An answer in the form of its task. Classes of a model that has changed since it was looked up have numbers instead of labels,
/// as they may have other names now.
pub(crate) fn read_out<'a>(
    answer: &'a Answer,
    model: &'a ModelDescription,
    top_k: TopK,
) -> Result<Prediction<'a>, Error> {
    let inference = &answer.entry.inference;
    let is_current = inference.provenance.model_digest == model.digest;
    let read = if is_current { Prediction::from_inference } else { Prediction::from_inference_unlabelled };
    Ok(read(inference, &model.outputs, top_k)?)
}

/// The answer to `question` in the shape that `render` gives it, with the headers that say how it came about; or 304
/// when the client has it.
pub(crate) async fn respond(
    app: &App,
    headers: &HeaderMap,
    question: &Question,
    steering: Steering,
    render: impl FnOnce(&Answer) -> Result<Response, Error>,
) -> Result<Response, Error> {
    if let Some(response) = not_modified(headers, question, steering) {
        return Ok(response);
    }
    let answer = app.predictor.answer(question, steering).await?;
    let mut response = render(&answer)?;
    tell_provenance(response.headers_mut(), &answer)?;
    Ok(response)
}

/// 304, where the client has the answer.
fn not_modified(headers: &HeaderMap, question: &Question, steering: Steering) -> Option<Response> {
    let is_cached = steering.reads_memory() && question.uncached().is_none();
    if !is_cached || !headers.contains_key(header::IF_NONE_MATCH) {
        return None;
    }
    let etag = question.etag();
    etag_matches(headers, &etag).then(|| (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response())
}

/// Says in HTTP's words how an answer came about.
pub(crate) fn tell_provenance(headers: &mut HeaderMap, answer: &Answer) -> Result<(), Error> {
    let provenance = answer.provenance;
    let status = match provenance.cache_status() {
        Cow::Borrowed(status) => HeaderValue::from_static(status),
        Cow::Owned(status) => HeaderValue::try_from(status).map_err(|_| Error::Internal)?,
    };
    headers.insert(HeaderName::from_static("cache-status"), status);
    if let Provenance::Uncached(_) = provenance {
        // Another request of the same may have another result: an entity tag would make a client keep this one.
        return Ok(());
    }
    // The answer's own key: the model may have changed since the question's was made.
    headers.insert(header::ETAG, HeaderValue::try_from(answer.entry.key.etag()).map_err(|_| Error::Internal)?);
    if provenance.is_remembered() {
        headers.insert(header::AGE, HeaderValue::from(answer.entry.age()));
    }
    Ok(())
}

impl<'a> AnswerBody<'a> {
    pub(crate) fn new(
        answer: &Answer,
        prediction: &'a Prediction<'a>,
        model: &'a ModelDescription,
        begun: Instant,
    ) -> Self {
        let timing = prediction.provenance.timing_ms;
        Self {
            model: prediction.model,
            version: prediction.version,
            task: prediction.task.name(),
            output: prediction.output,
            result: &prediction.result,
            cached: answer.provenance.is_remembered(),
            key: answer.entry.key.to_string(),
            model_digest: &prediction.provenance.model_digest,
            device: &prediction.provenance.device,
            timing_ms: TimingBody {
                total: milliseconds(begun.elapsed()),
                decode: timing.decode,
                queue: timing.queue,
                infer: timing.infer,
            },
            notice: model.notice.as_deref(),
        }
    }
}

/// With three decimal places: a product of seconds and 1000 would have seventeen digits in JSON.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}
