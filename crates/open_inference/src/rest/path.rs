//! Extractor of model and version from the path.

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;

use crate::error::Error;
use crate::request::model_name::validate_model_name;

/// Extractor of the model name, and of the version where the path has one.
pub(super) struct ModelPath {
    pub model: String,
    pub version: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for ModelPath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let params = RawPathParams::from_request_parts(parts, state).await;
        let params = params.map_err(|_| Error::malformed("the path is not UTF-8"))?;
        let find = |param| params.iter().find(|(name, _)| *name == param).map(|(_, value)| value.to_owned());
        let model = find("model").unwrap_or_default();
        let version = find("version");
        validate_model_name(&model, version.as_deref())?;
        Ok(Self { model, version })
    }
}
