//! The page, rendered on the server: it works without JavaScript. `static/` has the scripts.

use std::time::Instant;

use askama::Template;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use contract::{ModelDescription, Png, Prediction, TopK};
use http::{HeaderMap, HeaderName, StatusCode, header};
use open_inference::Task;
use serde::Deserialize;
use service::problem::RETRY_AFTER_SECONDS;
use tracing::error;

use super::assets;
use super::prediction::{PredictionBody, image_request, insert_cache_headers, read_prediction};
use crate::cache_control::RequestOptions;
use crate::error::Error;
use crate::http::extract::image_upload::{ImageUpload, UploadRejection};
use crate::inference::response::PredictionResponse;
use crate::settings::AppType;
use crate::state::AppState;

/// Availability of a model as text.
mod availability;

/// Numbers and lists as text.
mod format;

/// Hint for a model that could take images.
mod image_hint;

/// Result by its task as text and bars.
mod result_display;

use availability::Availability;
use image_hint::ImageHint;
use result_display::ResultDisplay;

/// Maximum number of images of a result that the page shows.
const MAX_IMAGES: usize = 32;

/// Maximum number of characters per line of JSON that the page shows.
const MAX_LINE_LENGTH: usize = 1000;

/// Maximum number of lines of JSON that the page shows.
const MAX_LINES: usize = 1000;

/// Maximum size of an uploaded image that the response to a plain form post embeds, in bytes.
const MAX_INLINE_BYTES: usize = 4 << 20;

/// Media types that browsers display. Other images are not embedded.
const INLINE_MEDIA_TYPES: [&str; 5] = ["image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp"];

#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    models: &'a [Listing<'a>],
    selected: &'a str,
    models_json: String,
    /// Whether `model_api` responds.
    reachable: bool,
    result: Option<ResultView>,
    error: Option<String>,
    asset_version: &'a str,
}

/// Model in the page.
struct Listing<'a> {
    model: &'a ModelDescription,
    availability: Availability,
    /// Settings that are missing for the model to accept images.
    image_hint: Option<ImageHint>,
}

impl<'a> Listing<'a> {
    fn new(model: &'a ModelDescription, reachable: bool) -> Self {
        Self { model, availability: Availability::of(model, reachable), image_hint: ImageHint::of(model) }
    }
}

/// Result in the page.
#[derive(Default)]
struct ResultView {
    task: &'static str,
    display: ResultDisplay,
    images: Vec<ImageView>,
    /// Preprocessed image, and the class map that lies over it, as data URIs.
    overlay: Option<(String, String)>,
    cached: bool,
    model: String,
    version: String,
    device: String,
    total_ms: String,
    notice: Option<String>,
    /// Uploaded image as a data URI.
    uploaded: Option<String>,
    /// Preprocessed image as a data URI.
    preview: Option<String>,
    json: String,
    curl: String,
}

/// Image that is a result.
struct ImageView {
    title: String,
    /// Data URI.
    source: String,
    width: usize,
    height: usize,
    save_as: String,
}

/// Query parameter `?model=` of the page.
#[derive(Debug, Deserialize)]
pub struct Selection {
    model: Option<String>,
}

/// Returns the page, or a greeting as JSON with `APP_TYPE=cli`.
pub async fn show(State(app): State<AppState>, selection: Result<Query<Selection>, QueryRejection>) -> Response {
    let model = selection.ok().and_then(|Query(selection)| selection.model);
    match app.app_type {
        AppType::Ui => render(&app, model.as_deref(), None, None),
        AppType::Cli => Json("Can curl web api!").into_response(),
    }
}

/// Whether a request is a plain form post of the page: it is a form, and its client prefers HTML.
pub(crate) fn is_form_post(app: &AppState, headers: &HeaderMap) -> bool {
    let begins = |name: HeaderName, start: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| value.trim().starts_with(start))
    };
    app.app_type == AppType::Ui
        && begins(header::ACCEPT, "text/html")
        && begins(header::CONTENT_TYPE, "multipart/form-data")
}

/// Responds to a plain form post with the page that contains the result or the error.
pub(crate) async fn respond_to_form(
    app: &AppState,
    headers: &HeaderMap,
    path_model: Option<String>,
    top_k: TopK,
    upload: Result<ImageUpload, UploadRejection>,
) -> Response {
    let (model, result) = match upload {
        Ok(upload) => {
            let model = path_model.or_else(|| upload.model.clone());
            (model.clone(), predict(app, headers, model, top_k, upload).await)
        }
        Err(UploadRejection { error, model }) => (path_model.or(model), Err(error)),
    };
    match result {
        Ok((view, cache_headers)) => {
            let mut response = render(app, model.as_deref(), Some(view), None);
            response.headers_mut().extend(cache_headers);
            response
        }
        Err(error) => render(app, model.as_deref(), None, Some(error)),
    }
}

async fn predict(
    app: &AppState,
    headers: &HeaderMap,
    model: Option<String>,
    top_k: TopK,
    upload: ImageUpload,
) -> Result<(ResultView, HeaderMap), Error> {
    let start = Instant::now();
    let request = image_request(app, model, upload.image.clone()).await?;
    // Cache directives of the request are ignored: browsers send `max-age=0` with every form post.
    let answer = app.predictor.predict(&request, RequestOptions::default()).await?;
    let mut cache_headers = HeaderMap::new();
    insert_cache_headers(&mut cache_headers, &answer)?;
    let model = request.model();
    // The result is valid without the preview, so a failure is not an error.
    let preview = app.predictor.preview(Some(&model.name), upload.image.clone()).await.ok();
    let preview = preview.map(|png| data_uri("image/png", &png));
    let prediction = read_prediction(&answer, model, top_k)?;
    let images = images(&prediction, upload.file_name.as_deref());
    let overlay = images.first().filter(|_| prediction.task == Task::Segmentation).zip(preview.as_ref());
    let view = ResultView {
        task: prediction.task.name(),
        display: ResultDisplay::new(&prediction, || read_prediction(&answer, model, TopK::All).ok()),
        overlay: overlay.map(|(map, preview)| (preview.clone(), map.source.clone())),
        images,
        cached: answer.cache_status.is_hit(),
        model: prediction.model.to_owned(),
        version: prediction.version.to_owned(),
        device: prediction.provenance.device.clone(),
        total_ms: format!("{:.1}", start.elapsed().as_secs_f64() * 1e3),
        notice: model.notice.clone(),
        uploaded: uploaded_image(&upload),
        preview,
        json: truncated(&pretty_json(&answer, &prediction, model, start)),
        curl: curl(headers, upload.file_name.as_deref(), &model.name),
    };
    Ok((view, cache_headers))
}

fn images(prediction: &Prediction<'_>, file_name: Option<&str>) -> Vec<ImageView> {
    let images = prediction.result.images();
    let title = if prediction.task == Task::Segmentation { "Class map" } else { "Result" };
    let stem = file_name.map_or("image", |name| name.rsplit_once('.').map_or(name, |(stem, _)| stem));
    let view = |(index, Png { file, width, height }): (usize, &Png)| {
        let number = (images.len() > 1).then_some(index + 1);
        ImageView {
            title: number.map_or(title.to_owned(), |number| format!("{title} {number}")),
            source: data_uri("image/png", file),
            width: *width,
            height: *height,
            save_as: number.map_or(format!("{stem}-result.png"), |number| format!("{stem}-result-{number}.png")),
        }
    };
    images.iter().take(MAX_IMAGES).enumerate().map(view).collect()
}

fn render(app: &AppState, selected: Option<&str>, result: Option<ResultView>, error: Option<Error>) -> Response {
    let snapshot = app.catalog.snapshot();
    let models: Vec<_> = snapshot.defaults().collect();
    let selected = models.iter().find(|model| selected == Some(&model.name));
    let selected = selected.or(models.iter().find(|model| model.image.is_some())).or(models.first());
    // Inside a script element, only "<" can end the element.
    let models_json = serde_json::to_string(&models).unwrap_or_default().replace('<', "\\u003c");
    let status = error.as_ref().map_or(StatusCode::OK, |error| error.status().0);
    let retry_after_s = error.as_ref().map_or(RETRY_AFTER_SECONDS, Error::retry_after_s);
    let page = Page {
        models: &models.iter().map(|&model| Listing::new(model, snapshot.reachable)).collect::<Vec<_>>(),
        reachable: snapshot.reachable,
        selected: selected.map_or("", |model| model.name.as_str()),
        models_json,
        result,
        error: error.map(|error| error.to_string()),
        asset_version: assets::VERSION.as_str(),
    };
    match page.render() {
        Ok(html) if status == StatusCode::SERVICE_UNAVAILABLE => {
            (status, [(header::RETRY_AFTER, retry_after_s.to_string())], Html(html)).into_response()
        }
        Ok(html) => (status, Html(html)).into_response(),
        Err(error) => {
            error!(%error, "page rendering failed");
            Error::Internal.into_response()
        }
    }
}

/// Truncates long JSON: an image in base64, or thousands of numbers, would fill the page.
fn truncated(json: &str) -> String {
    let truncate_line = |line: &str| match line.char_indices().nth(MAX_LINE_LENGTH) {
        Some((end, _)) => format!("{}… {} more characters", &line[..end], line[end..].chars().count()),
        None => line.to_owned(),
    };
    let mut lines: Vec<String> = json.lines().take(MAX_LINES).map(truncate_line).collect();
    let left = json.lines().count().saturating_sub(MAX_LINES);
    if left > 0 {
        lines.push(format!("… {left} more lines"));
    }
    lines.join("\n")
}

fn uploaded_image(upload: &ImageUpload) -> Option<String> {
    let is_embeddable = INLINE_MEDIA_TYPES.contains(&&*upload.media_type) && upload.image.len() <= MAX_INLINE_BYTES;
    is_embeddable.then(|| data_uri(&upload.media_type, &upload.image))
}

fn data_uri(media_type: &str, bytes: &[u8]) -> String {
    format!("data:{media_type};base64,{}", STANDARD.encode(bytes))
}

fn pretty_json(
    answer: &PredictionResponse,
    prediction: &Prediction<'_>,
    model: &ModelDescription,
    start: Instant,
) -> String {
    serde_json::to_string_pretty(&PredictionBody::new(answer, prediction, model, start)).unwrap_or_default()
}

fn curl(headers: &HeaderMap, file_name: Option<&str>, model: &str) -> String {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or("localhost:5000");
    let file = file_name.filter(|name| !name.is_empty()).unwrap_or("image.png");
    if file.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return format!("curl -F image=@{file} http://{host}/predict/{model}");
    }
    // `;` and `,` are special to curl in a form value, except in double quotes. Single quotes protect the value from the shell.
    let form = format!("image=@\"{}\"", file.replace('\\', "\\\\").replace('"', "\\\""));
    format!("curl -F '{}' http://{host}/predict/{model}", form.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_json_is_truncated() {
        assert_eq!(truncated("{\n  \"a\": 1\n}"), "{\n  \"a\": 1\n}");
        let long = format!("{}\n{}", "ä".repeat(1005), "1,\n".repeat(1000));
        let short = truncated(&long);
        assert!(short.starts_with(&format!("{}… 5 more characters\n", "ä".repeat(1000))));
        assert!(short.ends_with("1,\n… 1 more lines"), "{}", &short[short.len() - 40..]);
    }

    #[test]
    fn the_curl_command_quotes_special_characters() {
        let line = curl(&HeaderMap::new(), Some("seven.png"), "mnist");
        assert_eq!(line, "curl -F image=@seven.png http://localhost:5000/predict/mnist");
        let line = curl(&HeaderMap::new(), Some("it's; \"a\".png"), "mnist");
        assert_eq!(line, r#"curl -F 'image=@"it'\''s; \"a\".png"' http://localhost:5000/predict/mnist"#);
    }
}
