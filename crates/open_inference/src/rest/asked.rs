use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;

use crate::Error;
use crate::names::check_names;

/// The model that a path names, and its version where it names one.
pub(super) struct Asked {
    pub model: String,
    pub version: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let params = RawPathParams::from_request_parts(parts, state).await;
        let params = params.map_err(|_| Error::malformed("the path is not UTF-8"))?;
        let find = |wanted| params.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned());
        let model = find("model").unwrap_or_default();
        let version = find("version");
        check_names(&model, version.as_deref())?;
        Ok(Self { model, version })
    }
}
