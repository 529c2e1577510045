use std::sync::Arc;

use axum::http::HeaderMap;
use open_inference::{Error, InferRequest, Inference, InferenceServer, ModelIndex, ModelMetadata, Statistics};

use crate::inference::infer;
use crate::scheduler::{PoolState, Priority};
use crate::state::AppState;

/// Implementation of the Open Inference Protocol; REST and gRPC call it.
#[derive(Clone)]
pub struct OpenInferenceService(pub Arc<AppState>);

impl InferenceServer for OpenInferenceService {
    fn is_ready(&self) -> bool {
        self.0.readiness.reason().is_none() && self.0.registry.is_ready()
    }

    fn models(&self) -> Vec<Arc<ModelMetadata>> {
        let models = self.0.registry.list();
        models.iter().filter_map(|model| self.model(&model.name, Some(&model.version)).ok()).collect()
    }

    fn model(&self, name: &str, version: Option<&str>) -> Result<Arc<ModelMetadata>, Error> {
        Ok(self.0.registry.get(name, version)?.metadata())
    }

    fn versions(&self, name: &str) -> Vec<String> {
        self.0.registry.versions(name)
    }

    fn is_model_ready(&self, name: &str, version: Option<&str>) -> Result<bool, Error> {
        match self.0.registry.get(name, version) {
            Ok(model) => Ok(matches!(model.state(), PoolState::Ready(_))),
            Err(crate::error::Error::Unavailable { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn infer(&self, request: InferRequest) -> Result<Inference, Error> {
        let model = self.0.registry.get(&request.model, request.version.as_deref())?;
        let priority = Priority::from_headers(&request.headers);
        Ok(infer(&self.0, &model, request.inputs, priority).await?)
    }

    fn statistics(&self) -> &Statistics {
        &self.0.statistics
    }

    async fn repository_index(&self) -> Result<Vec<ModelIndex>, Error> {
        Ok(self.0.registry.index().await)
    }

    async fn load(&self, model: &str, headers: &HeaderMap) -> Result<(), Error> {
        self.0.repository_access.check(headers)?;
        Ok(self.0.registry.load(model).await?)
    }

    async fn unload(&self, model: &str, headers: &HeaderMap) -> Result<(), Error> {
        self.0.repository_access.check(headers)?;
        Ok(self.0.registry.unload(model).await?)
    }
}
