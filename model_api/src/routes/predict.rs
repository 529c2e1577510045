use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use contract::{ImageArray, LegacyResponse, Prediction};

use super::extract::InferenceInput;
use crate::error::Error;
use crate::inference::infer;
use crate::scheduler::Priority;
use crate::state::AppState;

/// `POST /predict_array`, `/predict_array/{model}`: takes `{"image_arr": …}`, returns `{"cls", "value"}`, the format of the
/// first MLServe.
pub async fn predict_array(
    State(state): State<Arc<AppState>>,
    input: InferenceInput,
) -> Result<Json<LegacyResponse>, Error> {
    let InferenceInput { model, body } = input;
    let reader = Arc::clone(&model);
    let read = move || {
        let array = ImageArray::from_json(&body.bytes)
            .map_err(|error| Error::Malformed(format!("The request cannot be parsed: {error}.")))?;
        array.to_tensor(reader.only_input()?).map_err(|error| Error::InvalidInput(format!("{error}.")))
    };
    let tensor = state.decoder.run(read).await?;
    let inference = infer(&state, &model, vec![tensor], Priority::Interactive).await?;
    let (cls, value) = Prediction::first_row_class(&inference, &model.metadata.outputs)?;
    Ok(Json(LegacyResponse { cls, value }))
}
