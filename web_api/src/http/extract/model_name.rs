use axum::RequestPartsExt;
use axum::extract::{FromRequestParts, Path};
use http::request::Parts;

use crate::error::Error;

/// The model that a route's path names, or `None` where the path has no model.
pub struct ModelName(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for ModelName {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let path = parts.extract::<Option<Path<String>>>().await;
        // A path segment that is not UTF-8 cannot be the name of a model.
        path.map(|path| Self(path.map(|Path(name)| name))).map_err(|_| Error::RouteNotFound)
    }
}
