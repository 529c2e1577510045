use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use contract::{LegacyAnswer, Prediction};

use super::ask::Ask;
use crate::app::App;
use crate::error::Error;
use crate::infer::{Question, infer};

/// `POST /predict/{model}`: an encoded picture, or JSON `{"image_arr": …}`.
pub async fn predict(State(app): State<Arc<App>>, ask: Ask) -> Result<Json<Prediction>, Error> {
    let question = if ask.is_json { Question::Array(ask.body) } else { Question::Picture(ask.body) };
    let inference = infer(&app, &ask.model, question).await?;
    Ok(Json(Prediction::read_out(&inference, ask.model.labels())?))
}

/// `POST /predict_array`, `/predict_array/{model}`: `{"image_arr": …}` → `{"cls", "value"}`, as the first MLServe had it.
pub async fn predict_array(State(app): State<Arc<App>>, ask: Ask) -> Result<Json<LegacyAnswer>, Error> {
    let inference = infer(&app, &ask.model, Question::Array(ask.body)).await?;
    let Prediction { cls, value, .. } = Prediction::read_out(&inference, ask.model.labels())?;
    Ok(Json(LegacyAnswer { cls, value }))
}
