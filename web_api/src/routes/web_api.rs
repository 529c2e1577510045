use axum::extract::{Request, State};
use axum::response::Response;
use axum::{Json, response::IntoResponse};
use contract::{LegacyAnswer, Prediction};
use http::HeaderMap;

use crate::app::App;
use crate::error::Error;
use crate::model_name::ModelName;
use crate::routes::predict::respond;
use crate::steering::Steering;

/// `{"image_arr": <nested list>}` → `{"cls", "value"}`.
pub async fn web_api(
    State(app): State<App>,
    ModelName(model): ModelName,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Error> {
    let body = app.bodies.read(&headers, request.into_body()).await?;
    let (asked, json) = (app.clone(), body.bytes.clone());
    let ask = move || asked.predictor.ask_array(model.as_deref(), &json);
    let question = app.workbench.run(body.bytes.len(), ask).await??;
    respond(&app, &headers, &question, Steering::from_headers(&headers), |answer| {
        let (cls, value) = Prediction::class_of_row_0(&answer.entry.inference, &question.model().outputs)?;
        Ok(Json(LegacyAnswer { cls, value }).into_response())
    })
    .await
}
