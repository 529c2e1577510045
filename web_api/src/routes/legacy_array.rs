use axum::extract::{Request, State};
use axum::response::Response;
use axum::{Json, response::IntoResponse};
use contract::{LegacyResponse, Prediction};
use service::body_limits::ReadBody;

use super::prediction::respond;
use crate::cache_control::RequestOptions;
use crate::error::Error;
use crate::http::extract::model_name::ModelName;
use crate::state::AppState;

/// Runs inference on `{"image_arr": <nested list>}` and returns `{"cls", "value"}`.
pub async fn predict_array(
    State(app): State<AppState>,
    ModelName(model): ModelName,
    request: Request,
) -> Result<Response, Error> {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let body = app.bodies.read(&parts, body).await?;
    let state = app.clone();
    let length = body.bytes.len();
    let parse = move || {
        let ReadBody { bytes, reservation: mut memory } = body;
        let request = state.predictor.request_from_array(model.as_deref(), &bytes, &mut memory)?;
        // The tensor has its own copy of the numbers.
        drop(bytes);
        memory.release(length);
        Ok::<_, Error>((request, memory))
    };
    let (request, _memory) = app.blocking_pool.run(length, parse).await??;
    respond(&app, headers, &request, RequestOptions::from_headers(headers), |answer| {
        let (cls, value) = Prediction::first_row_class(&answer.entry.inference, &request.model().outputs)?;
        Ok(Json(LegacyResponse { cls, value }).into_response())
    })
    .await
}
