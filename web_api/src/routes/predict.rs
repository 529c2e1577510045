use std::borrow::Cow;
use std::time::Instant;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use contract::{Choice, ClassScore, ModelDescription, Prediction};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use service::conditional::none_match;

use crate::app::App;
use crate::error::Error;
use crate::model_name::ModelName;
use crate::predictor::Answer;
use crate::question::Question;
use crate::routes::page;
use crate::steering::{Provenance, Steering};
use crate::upload::{ImageUpload, Rejected};

/// The body of an answer to a picture.
#[derive(Debug, Serialize)]
pub struct AnswerBody<'a> {
    model: &'a str,
    version: &'a str,
    cls: usize,
    label: &'a str,
    value: f32,
    probabilities: &'a [ClassScore<'a>],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    rows: &'a [Choice<'a>],
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

/// An image → an answer, as JSON or, for a plain form post of the page, as the page.
pub async fn predict(
    State(app): State<App>,
    model: Result<ModelName, Error>,
    headers: HeaderMap,
    upload: Result<ImageUpload, Rejected>,
) -> Response {
    let model = match model {
        Ok(ModelName(model)) => model,
        Err(error) => return error.into_response(),
    };
    if page::is_wanted(&app, &headers) {
        return Box::pin(page::answer_form(&app, &headers, model, upload)).await;
    }
    match upload {
        Ok(upload) => answer_json(&app, model, &headers, upload).await.into_response(),
        Err(rejected) => rejected.into_response(),
    }
}

async fn answer_json(
    app: &App,
    model: Option<String>,
    headers: &HeaderMap,
    upload: ImageUpload,
) -> Result<Response, Error> {
    let begun = Instant::now();
    let question = ask(app, model.or(upload.model), upload.image).await?;
    respond(app, headers, &question, Steering::from_headers(headers), |answer| {
        let prediction = read_out(answer, question.model())?;
        let body = AnswerBody::new(answer, &prediction, question.model(), begun);
        // Into a `Vec`, which takes a quarter of the time that axum's own `Json` does.
        let mut json = Vec::with_capacity(1 << 10);
        serde_json::to_writer(&mut json, &body).map_err(|_| Error::Internal)?;
        Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response())
    })
    .await
}

/// Hashing a large picture is work for the bench.
pub(crate) async fn ask(app: &App, model: Option<String>, image: Bytes) -> Result<Question, Error> {
    let asked = app.clone();
    app.workbench.run(image.len(), move || asked.predictor.ask_image(model.as_deref(), image)).await?
}

/// An answer as a choice between the classes of `model`: by their numbers when it has changed since it was looked up, as
/// they may have other names now.
pub(crate) fn read_out<'a>(answer: &'a Answer, model: &'a ModelDescription) -> Result<Prediction<'a>, Error> {
    let inference = &answer.entry.inference;
    let labels = if inference.provenance.model_digest == model.digest { model.labels() } else { &[] };
    Ok(Prediction::read_out(inference, labels)?)
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
    if steering.reads_memory() && question.uncached().is_none() && headers.contains_key(header::IF_NONE_MATCH) {
        let etag = question.etag();
        if none_match(headers, &etag) {
            return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
        }
    }
    let answer = app.predictor.answer(question, steering).await?;
    let mut response = render(&answer)?;
    tell_provenance(response.headers_mut(), &answer)?;
    Ok(response)
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
        Self {
            model: prediction.model,
            version: prediction.version,
            cls: prediction.cls,
            label: &prediction.label,
            value: prediction.value,
            probabilities: &prediction.probabilities,
            rows: &prediction.rows,
            cached: answer.provenance.is_remembered(),
            key: answer.entry.key.to_string(),
            model_digest: &prediction.provenance.model_digest,
            device: &prediction.provenance.device,
            timing_ms: TimingBody {
                total: begun.elapsed().as_secs_f64() * 1e3,
                decode: prediction.provenance.timing_ms.decode,
                queue: prediction.provenance.timing_ms.queue,
                infer: prediction.provenance.timing_ms.infer,
            },
            notice: model.notice.as_deref(),
        }
    }
}
