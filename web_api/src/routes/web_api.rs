use axum::extract::{Request, State};
use axum::response::Response;
use axum::{Json, response::IntoResponse};
use contract::{LegacyResponse, Prediction};
use service::body_limits::ReadBody;

use crate::app::App;
use crate::error::Error;
use crate::model_name::ModelName;
use crate::routes::predict::respond;
use crate::steering::Steering;

/// `{"image_arr": <nested list>}` → `{"cls", "value"}`.
pub async fn web_api(State(app): State<App>, ModelName(model): ModelName, request: Request) -> Result<Response, Error> {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let body = app.bodies.read(&parts, body).await?;
    let asked = app.clone();
    let length = body.bytes.len();
    let ask = move || {
        let ReadBody { bytes, reservation: mut share } = body;
        let question = asked.predictor.ask_array(model.as_deref(), &bytes, &mut share)?;
        // The body is not kept: the tensor has its own bytes.
        drop(bytes);
        share.release(length);
        Ok::<_, Error>((question, share))
    };
    let (question, _share) = app.workbench.run(length, ask).await??;
    respond(&app, headers, &question, Steering::from_headers(headers), |answer| {
        let (cls, value) = Prediction::first_row_class(&answer.entry.inference, &question.model().outputs)?;
        Ok(Json(LegacyResponse { cls, value }).into_response())
    })
    .await
}
