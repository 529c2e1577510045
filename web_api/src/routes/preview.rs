use axum::extract::State;
use axum::response::IntoResponse;
use http::header;

use crate::error::Error;
use crate::http::extract::image_upload::ImageUpload;
use crate::http::extract::model_name::ModelName;
use crate::state::AppState;

/// Returns the image after the model's preprocessing, as a PNG.
pub async fn preview(
    State(app): State<AppState>,
    ModelName(model): ModelName,
    upload: ImageUpload,
) -> Result<impl IntoResponse, Error> {
    let png = app.predictor.preview(model.as_deref(), upload.image).await?;
    Ok(([(header::CONTENT_TYPE, "image/png")], png))
}
