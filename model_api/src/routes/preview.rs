use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::extract::InferenceInput;
use crate::error::Error;
use crate::preprocessing;
use crate::state::AppState;

/// `POST /input/{model}`: takes an encoded image, returns as PNG what the model receives after preprocessing.
pub async fn preview(State(state): State<Arc<AppState>>, input: InferenceInput) -> Result<impl IntoResponse, Error> {
    let limits = state.image_limits;
    let preprocess =
        move || Ok(preprocessing::preprocess(&input.body.bytes, input.model.image_input()?.1, &limits)?.to_png()?);
    let png = state.decoder.run(preprocess).await?;
    Ok(([(header::CONTENT_TYPE, "image/png")], png))
}
