use std::sync::Arc;

use axum::RequestExt;
use axum::extract::{FromRequest, Path, Request};
use service::body_limits::ReadBody;

use crate::app::App;
use crate::error::Error;
use crate::model::Model;

/// A body within its bounds, and the model in the path (or the only one there is) that is to read it.
pub struct Ask {
    pub model: Arc<Model>,
    pub body: ReadBody,
}

impl FromRequest<Arc<App>> for Ask {
    type Rejection = Error;

    async fn from_request(mut request: Request, app: &Arc<App>) -> Result<Self, Error> {
        let name = request.extract_parts::<Option<Path<String>>>().await;
        let (parts, body) = request.into_parts();
        // Before the model is looked up: an answer given while the client still sends would reach it as a reset.
        let body = app.bodies.read(&parts, body).await?;
        let model = match name {
            Ok(Some(Path(name))) => app.models.get(&name, None)?,
            Ok(None) => app.models.only()?,
            // A name that is not even text.
            Err(_) => app.models.get("", None)?,
        };
        Ok(Self { model, body })
    }
}
