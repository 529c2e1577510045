use std::time::Instant;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use contract::{MAX_JSON_IMAGE_BYTES, ModelDescription, PredictionError, TopK};
use http::{HeaderMap, HeaderValue, header};
use open_inference::Task;
use service::response_body::reserve_response;

use super::page;
use super::prediction::{PredictionBody, image_request, insert_cache_headers, not_modified, read_prediction};
use crate::cache_control::RequestOptions;
use crate::error::Error;
use crate::http::extract::image_upload::{ImageUpload, UploadRejection};
use crate::http::extract::model_name::ModelName;
use crate::http::extract::top_k::TopKParameter;
use crate::inference::response::PredictionResponse;
use crate::state::AppState;

/// Runs inference on an image. Responds with JSON, with a PNG, or with the page to a plain form post of the page.
pub async fn predict(
    State(app): State<AppState>,
    model: Result<ModelName, Error>,
    top_k: Result<TopKParameter, Error>,
    headers: HeaderMap,
    upload: Result<ImageUpload, UploadRejection>,
) -> Response {
    let (model, top_k) = match (model, top_k) {
        (Ok(ModelName(model)), Ok(TopKParameter(top_k))) => (model, top_k),
        (Err(error), _) | (_, Err(error)) => return error.into_response(),
    };
    if page::is_form_post(&app, &headers) {
        return Box::pin(page::respond_to_form(&app, &headers, model, top_k, upload)).await;
    }
    match upload {
        Ok(upload) => respond(&app, model, top_k, &headers, upload).await.into_response(),
        Err(rejection) => rejection.into_response(),
    }
}

async fn respond(
    app: &AppState,
    model: Option<String>,
    top_k: TopK,
    headers: &HeaderMap,
    upload: ImageUpload,
) -> Result<Response, Error> {
    let start = Instant::now();
    let request = image_request(app, model.or(upload.model), upload.image).await?;
    let options = RequestOptions::from_headers(headers);
    if let Some(response) = not_modified(headers, &request, options) {
        return Ok(response);
    }
    let answer = app.predictor.predict(&request, options).await?;
    let bytes = answer.entry.inference.outputs.iter().map(|output| output.data.len()).sum();
    let accepts_png = accepts_png(headers);
    // Images are encoded and long tensors serialized off the async threads.
    let render = move || render(&answer, request.model(), top_k, accepts_png, start);
    let response = app.blocking_pool.run(bytes, render).await??;
    Ok(reserve_response(response, app.bodies.budget().shared_reservation())?)
}

/// Renders a result as a PNG, if it is an image and the client accepts PNG, and otherwise as JSON.
fn render(
    answer: &PredictionResponse,
    model: &ModelDescription,
    top_k: TopK,
    accepts_png: bool,
    start: Instant,
) -> Result<Response, Error> {
    let prediction = read_prediction(answer, model, top_k)?;
    let is_image = matches!(prediction.task, Task::Image | Task::Segmentation);
    let mut response = if is_image && accepts_png {
        let [image] = prediction.result.images() else {
            return Err(Error::NotOneImage(prediction.result.images().len()));
        };
        ([(header::CONTENT_TYPE, HeaderValue::from_static("image/png"))], image.file.clone()).into_response()
    } else {
        let bytes = prediction.result.images().iter().map(|image| image.file.len()).sum();
        if bytes > MAX_JSON_IMAGE_BYTES {
            return Err(PredictionError::TooLarge { what: "images", bytes, max: MAX_JSON_IMAGE_BYTES }.into());
        }
        // Into a `Vec`, which takes a quarter of the time of axum's `Json`.
        let mut json = Vec::with_capacity(1 << 10);
        let body = PredictionBody::new(answer, &prediction, model, start);
        serde_json::to_writer(&mut json, &body).map_err(|_| Error::Internal)?;
        ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response()
    };
    if is_image {
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    }
    insert_cache_headers(response.headers_mut(), answer)?;
    Ok(response)
}

/// Whether `Accept` names `image/png` explicitly. `*/*` does not count: browsers send it for requests of scripts that expect JSON.
fn accepts_png(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut ranges = accepted.flat_map(|value| value.split(',')).filter_map(|range| range.split(';').next());
    ranges.any(|range| range.trim().eq_ignore_ascii_case("image/png"))
}
