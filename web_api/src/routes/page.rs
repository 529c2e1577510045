mod availability;
mod image_hint;
mod shown;

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

use crate::app::App;
use crate::error::Error;
use crate::inference::response::PredictionResponse;
use crate::routes::predict::{AnswerBody, ask, read_out, tell_provenance};
use crate::settings::AppType;
use crate::steering::Steering;
use crate::upload::{ImageUpload, Rejected};
use availability::Availability;
use image_hint::ImageHint;
use shown::Shown;

/// Images of a result that are shown.
const MAX_IMAGES: usize = 32;

/// Characters of a line of JSON that are shown, and lines.
const MAX_LINE: usize = 1000;
const MAX_LINES: usize = 1000;

/// Pictures up to this size are shown again in the page of a plain form post, inside its HTML.
const MAX_INLINE_BYTES: usize = 4 << 20;

/// What browsers show. Others are described, not embedded.
const INLINE_MEDIA_TYPES: [&str; 5] = ["image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp"];

#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    models: &'a [Listing<'a>],
    selected: &'a str,
    models_json: String,
    /// Whether `model_api` answers.
    reachable: bool,
    result: Option<ResultView>,
    error: Option<String>,
    asset_version: &'a str,
}

/// A model as the page introduces it.
struct Listing<'a> {
    model: &'a ModelDescription,
    availability: Availability,
    /// What is missing for it to take images.
    image_hint: Option<ImageHint>,
}

impl<'a> Listing<'a> {
    fn new(model: &'a ModelDescription, reachable: bool) -> Self {
        Self { model, availability: Availability::of(model, reachable), image_hint: ImageHint::of(model) }
    }
}

/// One answer as the page shows it.
#[derive(Default)]
struct ResultView {
    task: &'static str,
    shown: Shown,
    images: Vec<ImageView>,
    /// What the model saw, and the class map to lay over it.
    over: Option<(String, String)>,
    remembered: bool,
    model: String,
    version: String,
    device: String,
    total_ms: String,
    notice: Option<String>,
    sent: Option<String>,
    seen: Option<String>,
    json: String,
    curl: String,
}

/// An image that is a result.
struct ImageView {
    title: String,
    /// A data URI.
    source: String,
    width: usize,
    height: usize,
    save_as: String,
}

/// `?model=` of the page's address.
#[derive(Debug, Deserialize)]
pub struct Chosen {
    model: Option<String>,
}

/// The page, or the greeting that scripts know.
pub async fn show(State(app): State<App>, chosen: Result<Query<Chosen>, QueryRejection>) -> Response {
    let chosen = chosen.ok().and_then(|Query(chosen)| chosen.model);
    match app.app_type {
        AppType::Ui => render(&app, chosen.as_deref(), None, None),
        AppType::Cli => Json("Can curl web api!").into_response(),
    }
}

/// Whether a request comes from the page's form: it is a form, browsers name HTML first, and there is a page.
pub(crate) fn is_wanted(app: &App, headers: &HeaderMap) -> bool {
    let begins = |name: HeaderName, start: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| value.trim().starts_with(start))
    };
    app.app_type == AppType::Ui
        && begins(header::ACCEPT, "text/html")
        && begins(header::CONTENT_TYPE, "multipart/form-data")
}

/// The answer to a plain form post: the page again, with the answer or the error in it.
pub(crate) async fn answer_form(
    app: &App,
    headers: &HeaderMap,
    in_path: Option<String>,
    top_k: TopK,
    upload: Result<ImageUpload, Rejected>,
) -> Response {
    let (model, answered) = match upload {
        Ok(upload) => {
            let model = in_path.or_else(|| upload.model.clone());
            (model.clone(), answer(app, headers, model, top_k, upload).await)
        }
        Err(Rejected { error, model }) => (in_path.or(model), Err(error)),
    };
    match answered {
        Ok((view, provenance)) => {
            let mut response = render(app, model.as_deref(), Some(view), None);
            response.headers_mut().extend(provenance);
            response
        }
        Err(error) => render(app, model.as_deref(), None, Some(error)),
    }
}

async fn answer(
    app: &App,
    headers: &HeaderMap,
    model: Option<String>,
    top_k: TopK,
    upload: ImageUpload,
) -> Result<(ResultView, HeaderMap), Error> {
    let begun = Instant::now();
    let question = ask(app, model, upload.image.clone()).await?;
    // Not as the headers say: browsers put `max-age=0` on every form they post, and nobody meant it.
    let answer = app.predictor.predict(&question, Steering::default()).await?;
    let mut provenance = HeaderMap::new();
    tell_provenance(&mut provenance, &answer)?;
    let model = question.model();
    // The page is right without this picture, so it is not worth an error.
    let seen = app.predictor.preview(Some(&model.name), upload.image.clone()).await.ok();
    let seen = seen.map(|png| data_uri("image/png", &png));
    let prediction = read_out(&answer, model, top_k)?;
    let images = images(&prediction, upload.file_name.as_deref());
    let over = images.first().filter(|_| prediction.task == Task::Segmentation).zip(seen.as_ref());
    let view = ResultView {
        task: prediction.task.name(),
        shown: Shown::of(&prediction, || read_out(&answer, model, TopK::All).ok()),
        over: over.map(|(map, seen)| (seen.clone(), map.source.clone())),
        images,
        remembered: answer.cache_status.is_remembered(),
        model: prediction.model.to_owned(),
        version: prediction.version.to_owned(),
        device: prediction.provenance.device.clone(),
        total_ms: format!("{:.1}", begun.elapsed().as_secs_f64() * 1e3),
        notice: model.notice.clone(),
        sent: shown_again(&upload),
        seen,
        json: bounded(&pretty(&answer, &prediction, model, begun)),
        curl: curl(headers, upload.file_name.as_deref(), &model.name),
    };
    Ok((view, provenance))
}

fn images(prediction: &Prediction<'_>, file_name: Option<&str>) -> Vec<ImageView> {
    let images = prediction.result.images();
    let title = if prediction.task == Task::Segmentation { "Class map" } else { "Result" };
    let stem = file_name.map_or("image", |name| name.rsplit_once('.').map_or(name, |(stem, _)| stem));
    let view = |(place, Png { file, width, height }): (usize, &Png)| {
        let number = (images.len() > 1).then_some(place + 1);
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

fn render(app: &App, selected: Option<&str>, result: Option<ResultView>, error: Option<Error>) -> Response {
    let known = app.catalog.snapshot();
    let models: Vec<_> = known.defaults().collect();
    let chosen = models.iter().find(|model| selected == Some(&model.name));
    let selected = chosen.or(models.iter().find(|model| model.image.is_some())).or(models.first());
    // Inside a script element only "<" could end the element.
    let models_json = serde_json::to_string(&models).unwrap_or_default().replace('<', "\\u003c");
    let status = error.as_ref().map_or(StatusCode::OK, |error| error.status().0);
    let retry_after_s = error.as_ref().map_or(RETRY_AFTER_SECONDS, Error::retry_after_s);
    let page = Page {
        models: &models.iter().map(|&model| Listing::new(model, known.reachable)).collect::<Vec<_>>(),
        reachable: known.reachable,
        selected: selected.map_or("", |model| model.name.as_str()),
        models_json,
        result,
        error: error.map(|error| error.to_string()),
        asset_version: &app.assets.version,
    };
    match page.render() {
        Ok(html) if status == StatusCode::SERVICE_UNAVAILABLE => {
            (status, [(header::RETRY_AFTER, retry_after_s.to_string())], Html(html)).into_response()
        }
        Ok(html) => (status, Html(html)).into_response(),
        Err(error) => {
            error!(%error, "the page cannot be rendered");
            Error::Internal.into_response()
        }
    }
}

/// An image in base64, or thousands of numbers, would fill the page.
fn bounded(json: &str) -> String {
    let short = |line: &str| match line.char_indices().nth(MAX_LINE) {
        Some((end, _)) => format!("{}… {} more characters", &line[..end], line[end..].chars().count()),
        None => line.to_owned(),
    };
    let mut lines: Vec<String> = json.lines().take(MAX_LINES).map(short).collect();
    let left = json.lines().count().saturating_sub(MAX_LINES);
    if left > 0 {
        lines.push(format!("… {left} more lines"));
    }
    lines.join("\n")
}

fn shown_again(upload: &ImageUpload) -> Option<String> {
    let is_shown = INLINE_MEDIA_TYPES.contains(&&*upload.media_type) && upload.image.len() <= MAX_INLINE_BYTES;
    is_shown.then(|| data_uri(&upload.media_type, &upload.image))
}

fn data_uri(media_type: &str, bytes: &[u8]) -> String {
    format!("data:{media_type};base64,{}", STANDARD.encode(bytes))
}

fn pretty(
    answer: &PredictionResponse,
    prediction: &Prediction<'_>,
    model: &ModelDescription,
    begun: Instant,
) -> String {
    serde_json::to_string_pretty(&AnswerBody::new(answer, prediction, model, begun)).unwrap_or_default()
}

fn curl(headers: &HeaderMap, file_name: Option<&str>, model: &str) -> String {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or("localhost:5000");
    let file = file_name.filter(|name| !name.is_empty()).unwrap_or("picture.png");
    if file.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return format!("curl -F image=@{file} http://{host}/predict/{model}");
    }
    // curl reads `;` and `,` in a form's value as its own; in double quotes it does not. A shell keeps single quotes.
    let form = format!("image=@\"{}\"", file.replace('\\', "\\\\").replace('"', "\\\""));
    format!("curl -F '{}' http://{host}/predict/{model}", form.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_json_is_cut() {
        assert_eq!(bounded("{\n  \"a\": 1\n}"), "{\n  \"a\": 1\n}");
        let long = format!("{}\n{}", "ä".repeat(1005), "1,\n".repeat(1000));
        let short = bounded(&long);
        assert!(short.starts_with(&format!("{}… 5 more characters\n", "ä".repeat(1000))));
        assert!(short.ends_with("1,\n… 1 more lines"), "{}", &short[short.len() - 40..]);
    }

    #[test]
    fn the_curl_line_quotes_what_a_shell_would_read() {
        let line = curl(&HeaderMap::new(), Some("seven.png"), "mnist");
        assert_eq!(line, "curl -F image=@seven.png http://localhost:5000/predict/mnist");
        let line = curl(&HeaderMap::new(), Some("it's; \"a\".png"), "mnist");
        assert_eq!(line, r#"curl -F 'image=@"it'\''s; \"a\".png"' http://localhost:5000/predict/mnist"#);
    }
}
