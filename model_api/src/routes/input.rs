use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::ask::Ask;
use crate::app::App;
use crate::error::Error;
use crate::preprocessing;

/// `POST /input/{model}`: an encoded picture → PNG, the picture as the model sees it.
pub async fn as_the_model_sees_it(State(app): State<Arc<App>>, ask: Ask) -> Result<impl IntoResponse, Error> {
    let limits = app.image_limits;
    let read = move || Ok(preprocessing::preprocess(&ask.body.bytes, ask.model.image()?.1, &limits)?.to_png()?);
    let png = app.decoder.run(read).await?;
    Ok(([(header::CONTENT_TYPE, "image/png")], png))
}
