use std::sync::Arc;

use axum::RequestExt;
use axum::extract::{FromRequest, Path, Request};
use service::body_limits::ReadBody;

use crate::error::Error;
use crate::model::Model;
use crate::state::AppState;

/// Extractor for inference requests: the body, within its limits, and the model in the path. Without a model in the path it
/// is the only model that is served.
pub struct InferenceInput {
    pub model: Arc<Model>,
    pub body: ReadBody,
}

impl FromRequest<Arc<AppState>> for InferenceInput {
    type Rejection = Error;

    async fn from_request(mut request: Request, state: &Arc<AppState>) -> Result<Self, Error> {
        let name = request.extract_parts::<Option<Path<String>>>().await;
        let (parts, body) = request.into_parts();
        // The body is read first: a response to a client that still sends would reach it as a connection reset.
        let body = state.body_reader.read(&parts, body).await?;
        let model = match name {
            Ok(Some(Path(name))) => state.registry.get(&name, None)?,
            Ok(None) => state.registry.get_only()?,
            // The name is not UTF-8.
            Err(_) => state.registry.get("", None)?,
        };
        Ok(Self { model, body })
    }
}
