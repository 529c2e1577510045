use axum::extract::{Request, State};
use axum::response::Response;
use axum::{Json, response::IntoResponse};
use contract::LegacyAnswer;
use http::HeaderMap;

use crate::app::App;
use crate::error::Error;
use crate::model_name::ModelName;
use crate::routes::predict::{read_out, respond};
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
        let prediction = read_out(answer, question.model())?;
        Ok(Json(LegacyAnswer { cls: prediction.cls, value: prediction.value }).into_response())
    })
    .await
}
