use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use contract::{ImageArray, LegacyAnswer, Prediction};

use super::ask::Ask;
use crate::app::App;
use crate::error::Error;
use crate::infer::infer;
use crate::scheduler::Priority;

/// `POST /predict_array`, `/predict_array/{model}`: `{"image_arr": …}` → `{"cls", "value"}`, as the first MLServe had it.
pub async fn predict_array(State(app): State<Arc<App>>, ask: Ask) -> Result<Json<LegacyAnswer>, Error> {
    let Ask { model, body } = ask;
    let reader = Arc::clone(&model);
    let read = move || {
        let array = ImageArray::from_json(&body.bytes).map_err(|error| Error::Malformed(error.to_string()))?;
        array.fit(reader.only_input()?).map_err(|error| Error::Unfit(error.to_string()))
    };
    let input = app.decoder.run(read).await?;
    let inference = infer(&app, &model, vec![input], Priority::Interactive).await?;
    let (cls, value) = Prediction::class_of_row_0(&inference, &model.metadata.outputs)?;
    Ok(Json(LegacyAnswer { cls, value }))
}
