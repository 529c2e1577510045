use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use contract::{ImageArray, LegacyResponse, Prediction};

use super::ask::Ask;
use crate::app::App;
use crate::error::Error;
use crate::infer::infer;
use crate::pool::Urgency;

/// `POST /predict_array`, `/predict_array/{model}`: `{"image_arr": …}` → `{"cls", "value"}`, as the first MLServe had it.
pub async fn predict_array(State(app): State<Arc<App>>, ask: Ask) -> Result<Json<LegacyResponse>, Error> {
    let Ask { model, body } = ask;
    let reader = Arc::clone(&model);
    let read = move || {
        let array = ImageArray::from_json(&body.bytes).map_err(|error| Error::Malformed(error.to_string()))?;
        array.to_tensor(reader.only_input()?).map_err(|error| Error::Unfit(error.to_string()))
    };
    let input = app.decoder.run(read).await?;
    let inference = infer(&app, &model, vec![input], Urgency::Interactive).await?;
    let (cls, value) = Prediction::first_row_class(&inference, &model.metadata.outputs)?;
    Ok(Json(LegacyResponse { cls, value }))
}
