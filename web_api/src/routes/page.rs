use std::time::Instant;

use askama::Template;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use contract::{Choice, ClassScore, Classification, ModelDescription, Prediction, TopK, TypedResult};
use http::{HeaderMap, HeaderName, StatusCode, header};
use serde::Deserialize;
use service::problem::RETRY_AFTER_SECONDS;
use tracing::error;

use crate::app::App;
use crate::error::Error;
use crate::predictor::Answer;
use crate::routes::predict::{AnswerBody, ask, read_out, tell_provenance};
use crate::settings::AppType;
use crate::steering::Steering;
use crate::upload::{ImageUpload, Rejected};

/// What is shown in an answer's bars.
const TOP_CLASSES: usize = 5;

/// The same, where an answer has several rows.
const MOST_ROWS: usize = 32;

/// Pictures up to this size are shown again in the page of a plain form post, inside its HTML.
const MAX_INLINE_BYTES: usize = 4 << 20;

/// What browsers show. Others are described, not embedded.
const INLINE_MEDIA_TYPES: [&str; 5] = ["image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp"];

#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    models: &'a [&'a ModelDescription],
    selected: &'a str,
    models_json: String,
    result: Option<ResultView>,
    error: Option<String>,
    asset_version: &'a str,
}

/// One answer as the page shows it.
#[derive(Default)]
struct ResultView {
    label: String,
    percent: String,
    remembered: bool,
    model: String,
    version: String,
    device: String,
    total_ms: String,
    notice: Option<String>,
    bars: Vec<Bar>,
    sent: Option<String>,
    seen: Option<String>,
    json: String,
    curl: String,
}

struct Bar {
    label: String,
    text: String,
    /// 0 to 1.
    value: f32,
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
    let answer = app.predictor.answer(&question, Steering::default()).await?;
    let mut provenance = HeaderMap::new();
    tell_provenance(&mut provenance, &answer)?;
    let model = question.model();
    // The page is right without this picture, so it is not worth an error.
    let seen = app.predictor.input(Some(&model.name), upload.image.clone()).await.ok();
    let prediction = read_out(&answer, model, top_k)?;
    let (label, percent, bars) = shown(&prediction);
    let view = ResultView {
        label,
        percent,
        remembered: answer.provenance.is_remembered(),
        model: prediction.model.to_owned(),
        version: prediction.version.to_owned(),
        device: prediction.provenance.device.clone(),
        total_ms: format!("{:.1}", begun.elapsed().as_secs_f64() * 1e3),
        notice: model.notice.clone(),
        bars,
        sent: shown_again(&upload),
        seen: seen.map(|png| data_uri("image/png", &png)),
        json: pretty(&answer, &prediction, model, begun),
        curl: curl(headers, upload.file_name.as_deref(), &model.name),
    };
    Ok((view, provenance))
}

fn render(app: &App, selected: Option<&str>, result: Option<ResultView>, error: Option<Error>) -> Response {
    let known = app.catalog.known();
    let models: Vec<_> = known.defaults().collect();
    let chosen = models.iter().find(|model| selected == Some(&model.name));
    let selected = chosen.or(models.iter().find(|model| model.image.is_some())).or(models.first());
    // Inside a script element only "<" could end the element.
    let models_json = serde_json::to_string(&models).unwrap_or_default().replace('<', "\\u003c");
    let status = error.as_ref().map_or(StatusCode::OK, |error| error.status().0);
    let retry_after_s = error.as_ref().map_or(RETRY_AFTER_SECONDS, Error::retry_after_s);
    let page = Page {
        models: &models,
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

/// Headline, its probability, and bars. Results that are no classification have the name of their task alone.
fn shown(prediction: &Prediction<'_>) -> (String, String, Vec<Bar>) {
    let TypedResult::Classification(classes) = &prediction.result else {
        return (prediction.task.name().to_owned(), String::new(), Vec::new());
    };
    let bars = if classes.rows.is_empty() { bars(&classes.probabilities) } else { bars_of_rows(&classes.rows) };
    (headline(classes), least_sure(classes).map(percent).unwrap_or_default(), bars)
}

/// What is said; of an answer in several rows, all of it.
fn headline(classes: &Classification<'_>) -> String {
    match classes.rows.as_slice() {
        [] => classes.top.as_ref().map_or_else(String::new, |top| top.label.to_string()),
        rows => rows.iter().map(|row| &*row.label).collect::<Vec<_>>().join(" "),
    }
}

/// How sure the model is of that: as sure as of the row that it is least sure of.
fn least_sure(classes: &Classification<'_>) -> Option<f32> {
    let of_rows = classes.rows.iter().map(|row| row.value).reduce(f32::min);
    of_rows.or(classes.top.as_ref().map(|top| top.value))
}

/// One for each row, in their order.
fn bars_of_rows(rows: &[Choice<'_>]) -> Vec<Bar> {
    let whole = rows.iter().map(|row| row.value).fold(1.0, f32::max);
    let bar = |row: &Choice<'_>| Bar {
        label: row.label.to_string(),
        text: percent(row.value),
        value: (row.value / whole).clamp(0.0, 1.0),
    };
    rows.iter().take(MOST_ROWS).map(bar).collect()
}

fn bars(probabilities: &[ClassScore<'_>]) -> Vec<Bar> {
    let mut scores: Vec<_> = probabilities.iter().collect();
    scores.sort_by(|a, b| b.value.total_cmp(&a.value));
    // Probabilities fill their share of the bar; scores of another kind are shown against the largest.
    let whole = scores.first().map_or(1.0, |largest| largest.value.max(1.0));
    let bar = |score: &&ClassScore| Bar {
        label: score.label.to_string(),
        text: percent(score.value),
        value: (score.value / whole).clamp(0.0, 1.0),
    };
    scores.iter().take(TOP_CLASSES).map(bar).collect()
}

/// Probabilities as per cent, never rounded to a certainty; what is none, as it is.
fn percent(value: f32) -> String {
    match f64::from(value) * 100.0 {
        percent if percent > 99.99 && percent < 100.0 => "> 99.99 %".to_owned(),
        percent if percent > 0.0 && percent < 0.01 => "< 0.01 %".to_owned(),
        percent if (0.0..=100.0).contains(&percent) => format!("{percent:.2} %"),
        _ => format!("{value:.4}"),
    }
}

fn shown_again(upload: &ImageUpload) -> Option<String> {
    let is_shown = INLINE_MEDIA_TYPES.contains(&&*upload.media_type) && upload.image.len() <= MAX_INLINE_BYTES;
    is_shown.then(|| data_uri(&upload.media_type, &upload.image))
}

fn data_uri(media_type: &str, bytes: &[u8]) -> String {
    format!("data:{media_type};base64,{}", STANDARD.encode(bytes))
}

fn pretty(answer: &Answer, prediction: &Prediction<'_>, model: &ModelDescription, begun: Instant) -> String {
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
    fn per_cent_never_claims_a_certainty_that_rounding_made() {
        let shown = [1.0, 0.999_99, 0.5, 0.000_01, 0.0, -3.5, f32::NAN].map(percent);
        assert_eq!(shown, ["100.00 %", "> 99.99 %", "50.00 %", "< 0.01 %", "0.00 %", "-3.5000", "NaN"]);
    }

    #[test]
    fn the_curl_line_quotes_what_a_shell_would_read() {
        let line = curl(&HeaderMap::new(), Some("seven.png"), "mnist");
        assert_eq!(line, "curl -F image=@seven.png http://localhost:5000/predict/mnist");
        let line = curl(&HeaderMap::new(), Some("it's; \"a\".png"), "mnist");
        assert_eq!(line, r#"curl -F 'image=@"it'\''s; \"a\".png"' http://localhost:5000/predict/mnist"#);
    }
}
