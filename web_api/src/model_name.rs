use axum::RequestPartsExt;
use axum::extract::{FromRequestParts, Path};
use http::request::Parts;

use crate::error::Error;

/// The model in a route's path, where there is one.
pub struct ModelName(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for ModelName {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let path = parts.extract::<Option<Path<String>>>().await;
        // What is no text names no model.
        path.map(|path| Self(path.map(|Path(name)| name))).map_err(|_| Error::NoRoute)
    }
}
