use std::sync::Arc;

use http::HeaderMap;
use open_inference::{Error as ProtocolError, InferRequest, Inference, InferenceServer, ModelIndex, ModelMetadata};
use open_inference::{ModelState, Statistics, Tensor};

use super::prediction::insert_cache_headers;
use crate::cache_control::RequestOptions;
use crate::error::Error;
use crate::inference::request::PredictionRequest;
use crate::state::AppState;

/// Open Inference Protocol over the same predictor, and therefore the same cache, as every other route.
impl InferenceServer for AppState {
    fn is_ready(&self) -> bool {
        self.readiness.reason().or_else(|| self.catalog.snapshot().reason()).is_none()
    }

    fn models(&self) -> Vec<Arc<ModelMetadata>> {
        self.catalog.snapshot().metadata()
    }

    fn model(&self, name: &str, version: Option<&str>) -> Result<Arc<ModelMetadata>, ProtocolError> {
        Ok(self.catalog.find_version(name, version)?.require_loaded()?.metadata())
    }

    fn versions(&self, name: &str) -> Vec<String> {
        self.catalog.snapshot().versions(name)
    }

    fn is_model_ready(&self, name: &str, version: Option<&str>) -> Result<bool, ProtocolError> {
        let model = self.catalog.find_version(name, version)?;
        Ok(self.catalog.snapshot().reachable && model.is_ready())
    }

    fn caches_results(&self, model: &ModelMetadata) -> bool {
        model.not_cached.is_none()
    }

    async fn infer(&self, request: InferRequest) -> Result<Inference, ProtocolError> {
        let InferRequest { model, version, inputs, headers } = request;
        let request = hashed_request(self, model, version, inputs).await?;
        let answer = self.predictor.predict(&request, RequestOptions::from_headers(&headers)).await?;
        let mut headers = HeaderMap::new();
        insert_cache_headers(&mut headers, &answer)?;
        Ok(Inference { headers, ..answer.entry.inference.clone() })
    }

    fn statistics(&self) -> &Statistics {
        self.predictor.statistics()
    }

    async fn repository_index(&self) -> Result<Vec<ModelIndex>, ProtocolError> {
        let index = self.client.index().await?;
        // A client that polls the index until a model is ready must be able to use the model immediately afterwards.
        let is_current = |line: &ModelIndex| {
            let listed = self.catalog.find_version(&line.name, Some(&line.version));
            (line.state == ModelState::Ready) == listed.is_ok_and(|model| model.is_ready())
        };
        if !index.iter().all(is_current) {
            self.catalog.refresh(&self.client).await;
        }
        Ok(index)
    }

    async fn load(&self, model: &str, _: &HeaderMap) -> Result<(), ProtocolError> {
        change_repository(self, self.client.load(model)).await
    }

    async fn unload(&self, model: &str, _: &HeaderMap) -> Result<(), ProtocolError> {
        change_repository(self, self.client.unload(model)).await
    }
}

/// Runs `change` and then refreshes the catalog, so that a client that has loaded a model can use it immediately afterwards.
async fn change_repository(
    app: &AppState,
    change: impl Future<Output = Result<(), Error>>,
) -> Result<(), ProtocolError> {
    if !app.repository_api {
        return Err(Error::RepositoryApiDisabled.into());
    }
    let changed = change.await;
    // Also after an error, because the change may have succeeded on some replicas.
    app.catalog.refresh(&app.client).await;
    Ok(changed?)
}

/// Builds a request, which hashes all tensors. Large ones are hashed in the blocking pool.
async fn hashed_request(
    app: &AppState,
    model: String,
    version: Option<String>,
    inputs: Vec<Tensor>,
) -> Result<PredictionRequest, Error> {
    let state = app.clone();
    let bytes = inputs.iter().map(|tensor| tensor.data.len()).sum();
    let build = move || state.predictor.request_from_tensors(&model, version.as_deref(), inputs);
    app.blocking_pool.run(bytes, build).await?
}
