use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use image::imageops::FilterType;
use ort::environment::Environment;
use ort::session::Session;
use serde_json::{Value, json};

use super::raw::{self, PIXELS};

thread_local! {
    /// A session for each thread of the server: no thread waits for a lock.
    static SESSION: RefCell<Option<Session>> = const { RefCell::new(None) };
}

type Model = Arc<(Environment, PathBuf)>;

/// The network behind HTTP, without batches, a queue, a cache or a second process. A run takes less time than handing it to
/// another thread would, so it happens where the request is read.
pub fn routes(model: &Path) -> anyhow::Result<Router> {
    let model: Model = Arc::new((raw::environment()?, model.to_owned()));
    Ok(Router::new()
        .route("/predict/{model}", post(predict))
        .route("/v2/models/{model}/infer", post(infer))
        .with_state(model))
}

async fn predict(State(model): State<Model>, body: Bytes) -> Response {
    respond(|| {
        let image = image::load_from_memory(&body)?.into_luma8();
        let image = image::imageops::resize(&image, 28, 28, FilterType::CatmullRom);
        let pixels: Vec<f32> = image.into_raw().into_iter().map(|gray| f32::from(gray) / 255.0).collect();
        let probabilities = run(&model, &pixels)?;
        let best = (0..10).max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b]));
        Ok(json!({"model": "mnist", "cls": best, "probabilities": probabilities}))
    })
}

async fn infer(State(model): State<Model>, headers: HeaderMap, body: Bytes) -> Response {
    respond(|| {
        let length = headers.get("inference-header-content-length").context("no binary tensor")?;
        let tensor = body.get(length.to_str()?.parse()?..).context("no tensor")?;
        ensure!(tensor.len() == PIXELS * 4, "one image of 28×28");
        let pixels: Vec<f32> =
            tensor.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect();
        let probabilities = run(&model, &pixels)?;
        Ok(json!({"model_name": "mnist", "outputs": [{
            "name": "probabilities", "datatype": "FP32", "shape": [1, 10], "data": probabilities}]}))
    })
}

fn run(model: &Model, pixels: &[f32]) -> anyhow::Result<Vec<f32>> {
    SESSION.with_borrow_mut(|slot| {
        let session = match slot {
            Some(session) => session,
            None => slot.insert(raw::session(&model.0, &model.1)?),
        };
        raw::run(session, pixels, 1)
    })
}

fn respond(answer: impl FnOnce() -> anyhow::Result<Value>) -> Response {
    match answer() {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error:#}")).into_response(),
    }
}
