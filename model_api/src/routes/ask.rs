use std::sync::Arc;

use axum::RequestExt;
use axum::extract::{FromRequest, Path, Request};
use axum::http::{HeaderMap, header};
use service::body::ReadBody;

use crate::app::App;
use crate::error::Error;
use crate::model::Model;

/// A body within its bounds, and the model in the path (or the only one there is) that is to read it.
pub struct Ask {
    pub model: Arc<Model>,
    pub body: ReadBody,
    /// Whether the body calls itself JSON. What a picture calls itself does not matter: its first bytes tell.
    pub is_json: bool,
}

impl FromRequest<Arc<App>> for Ask {
    type Rejection = Error;

    async fn from_request(mut request: Request, app: &Arc<App>) -> Result<Self, Error> {
        let name = request.extract_parts::<Option<Path<String>>>().await;
        let (parts, body) = request.into_parts();
        // Before the model is looked up: an answer given while the client still sends would reach it as a reset.
        let body = app.bodies.read(&parts.headers, body).await?;
        let model = match name {
            Ok(Some(Path(name))) => app.models.get(&name)?,
            Ok(None) => app.models.only()?,
            // A name that is not even text.
            Err(_) => app.models.get("")?,
        };
        Ok(Self { model, body, is_json: is_json(&parts.headers) })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}
