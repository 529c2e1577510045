use axum::extract::State;
use axum::response::IntoResponse;
use http::header;

use crate::app::App;
use crate::error::Error;
use crate::model_name::ModelName;
use crate::upload::ImageUpload;

/// The picture as the model sees it, as a PNG.
pub async fn input(
    State(app): State<App>,
    ModelName(model): ModelName,
    upload: ImageUpload,
) -> Result<impl IntoResponse, Error> {
    let png = app.predictor.preview(model.as_deref(), upload.image).await?;
    Ok(([(header::CONTENT_TYPE, "image/png")], png))
}
