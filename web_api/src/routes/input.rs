use axum::extract::{Path, State};
use axum::response::IntoResponse;
use http::header;

use crate::app::App;
use crate::error::Error;
use crate::upload::ImageUpload;

/// The picture as the model sees it, as a PNG.
pub async fn input(
    State(app): State<App>,
    Path(model): Path<String>,
    upload: ImageUpload,
) -> Result<impl IntoResponse, Error> {
    let png = app.predictor.input(Some(&model), upload.image).await?;
    Ok(([(header::CONTENT_TYPE, "image/png")], png))
}
