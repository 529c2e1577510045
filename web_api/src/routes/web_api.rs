use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::{Json, response::IntoResponse};
use contract::{ImageArray, LegacyAnswer};
use http::HeaderMap;
use tokio::task::spawn_blocking;

use crate::app::App;
use crate::error::Error;
use crate::routes::predict::respond;
use crate::steering::Steering;

/// `{"image_arr": <nested list>}` → `{"cls", "value"}`.
pub async fn web_api(
    State(app): State<App>,
    model: Option<Path<String>>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Error> {
    let body = app.bodies.read(&headers, request.into_body()).await?;
    let json = body.bytes.clone();
    // A 450×450×3 list takes milliseconds to read: too long for a thread that others wait for.
    let array = spawn_blocking(move || ImageArray::from_json(&json)).await.map_err(|_| Error::Internal)?;
    let array = array.map_err(|error| Error::Json(error.to_string()))?;
    let question =
        app.predictor.ask_array(model.as_ref().map(|Path(name)| name.as_str()), body.bytes.clone(), &array)?;
    respond(&app, &headers, &question, Steering::from_headers(&headers), |answer| {
        let prediction = &answer.entry.prediction;
        Json(LegacyAnswer { cls: prediction.cls, value: prediction.value }).into_response()
    })
    .await
}
