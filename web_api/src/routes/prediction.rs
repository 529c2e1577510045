use std::borrow::Cow;
use std::time::{Duration, Instant};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use contract::{ModelDescription, Prediction, TopK, TypedResult};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use service::conditional::etag_matches;

use crate::cache_control::{CacheStatus, RequestOptions};
use crate::error::Error;
use crate::inference::request::PredictionRequest;
use crate::inference::response::PredictionResponse;
use crate::state::AppState;

/// Response body of `/predict`: fields of every task, and the fields of the result's own task in `result`.
#[derive(Debug, Serialize)]
pub struct PredictionBody<'a> {
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

/// Times in milliseconds. `total` is the time of this request; the others are times of the inference that computed the result.
#[derive(Debug, Serialize)]
struct TimingBody {
    total: f64,
    decode: f64,
    queue: f64,
    infer: f64,
}

impl<'a> PredictionBody<'a> {
    pub(crate) fn new(
        answer: &PredictionResponse,
        prediction: &'a Prediction<'a>,
        model: &'a ModelDescription,
        start: Instant,
    ) -> Self {
        let timing = prediction.provenance.timing_ms;
        Self {
            model: prediction.model,
            version: prediction.version,
            task: prediction.task.name(),
            output: prediction.output,
            result: &prediction.result,
            cached: answer.cache_status.is_hit(),
            key: answer.entry.key.to_string(),
            model_digest: &prediction.provenance.model_digest,
            device: &prediction.provenance.device,
            timing_ms: TimingBody {
                total: milliseconds(start.elapsed()),
                decode: timing.decode,
                queue: timing.queue,
                infer: timing.infer,
            },
            notice: model.notice.as_deref(),
        }
    }
}

/// Milliseconds with three decimal places. Seconds times 1000 would have up to seventeen digits in JSON.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

/// Builds a request, which hashes the image. A large image is hashed in the blocking pool.
pub(crate) async fn image_request(
    app: &AppState,
    model: Option<String>,
    image: Bytes,
) -> Result<PredictionRequest, Error> {
    let state = app.clone();
    app.blocking_pool.run(image.len(), move || state.predictor.request_from_image(model.as_deref(), image)).await?
}

/// Interprets a result by the task of the model.
///
/// If the model has changed since the result was looked up, classes have numbers instead of labels, because the labels of `model`
/// may belong to other classes.
pub(crate) fn read_prediction<'a>(
    answer: &'a PredictionResponse,
    model: &'a ModelDescription,
    top_k: TopK,
) -> Result<Prediction<'a>, Error> {
    let inference = &answer.entry.inference;
    let is_current = inference.provenance.model_digest == model.digest;
    let read = if is_current { Prediction::from_inference } else { Prediction::from_inference_unlabelled };
    Ok(read(inference, &model.outputs, top_k)?)
}

/// Computes the result of `request` and renders it, with cache headers. Responds with 304 where the client has the result.
pub(crate) async fn respond(
    app: &AppState,
    headers: &HeaderMap,
    request: &PredictionRequest,
    options: RequestOptions,
    render: impl FnOnce(&PredictionResponse) -> Result<Response, Error>,
) -> Result<Response, Error> {
    if let Some(response) = not_modified(headers, request, options) {
        return Ok(response);
    }
    let answer = app.predictor.predict(request, options).await?;
    let mut response = render(&answer)?;
    insert_cache_headers(response.headers_mut(), &answer)?;
    Ok(response)
}

/// 304 where `If-None-Match` names the result. The key is enough for that, so the result itself is not looked up.
pub(crate) fn not_modified(
    headers: &HeaderMap,
    request: &PredictionRequest,
    options: RequestOptions,
) -> Option<Response> {
    let is_cacheable = options.allows_lookup() && request.uncached().is_none();
    if !is_cacheable || !headers.contains_key(header::IF_NONE_MATCH) {
        return None;
    }
    let etag = request.etag();
    etag_matches(headers, &etag).then(|| (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response())
}

/// Inserts `Cache-Status`, `ETag` and `Age`.
pub(crate) fn insert_cache_headers(headers: &mut HeaderMap, answer: &PredictionResponse) -> Result<(), Error> {
    let status = answer.cache_status;
    let value = match status.header_value() {
        Cow::Borrowed(value) => HeaderValue::from_static(value),
        Cow::Owned(value) => HeaderValue::try_from(value).map_err(|_| Error::Internal)?,
    };
    headers.insert(HeaderName::from_static("cache-status"), value);
    if let CacheStatus::Uncached(_) = status {
        // An equal request may have a different result, so an entity tag would make the client reuse this one wrongly.
        return Ok(());
    }
    // The key of the result, not of the request: the model may have changed in between.
    headers.insert(header::ETAG, HeaderValue::try_from(answer.entry.key.etag()).map_err(|_| Error::Internal)?);
    if status.is_hit() {
        headers.insert(header::AGE, HeaderValue::from(answer.entry.age()));
    }
    Ok(())
}
