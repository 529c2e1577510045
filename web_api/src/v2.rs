use std::sync::Arc;

use http::HeaderMap;
use open_inference::{Error as ProtocolError, InferRequest, Inference, InferenceServer, ModelIndex, ModelMetadata};
use open_inference::{ModelState, Statistics, Tensor};

use crate::app::App;
use crate::error::Error;
use crate::inference::request::PredictionRequest;
use crate::routes::predict::tell_provenance;
use crate::steering::Steering;

/// The Open Inference Protocol over the same predictor, and thereby over the same memory, as every other route.
impl InferenceServer for App {
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
        let question = ask(self, model, version, inputs).await?;
        let answer = self.predictor.predict(&question, Steering::from_headers(&headers)).await?;
        let mut told = HeaderMap::new();
        tell_provenance(&mut told, &answer)?;
        Ok(Inference { headers: told, ..answer.entry.inference.clone() })
    }

    fn statistics(&self) -> &Statistics {
        self.predictor.statistics()
    }

    async fn repository_index(&self) -> Result<Vec<ModelIndex>, ProtocolError> {
        let index = self.client.index().await?;
        // Who waits here until a model is ready, and then asks it, is served.
        let is_known = |line: &ModelIndex| {
            let known = self.catalog.find_version(&line.name, Some(&line.version));
            (line.state == ModelState::Ready) == known.is_ok_and(|model| model.is_ready())
        };
        if !index.iter().all(is_known) {
            self.catalog.refresh(&self.client).await;
        }
        Ok(index)
    }

    async fn load(&self, model: &str, _: &HeaderMap) -> Result<(), ProtocolError> {
        self.change(self.client.load(model)).await
    }

    async fn unload(&self, model: &str, _: &HeaderMap) -> Result<(), ProtocolError> {
        self.change(self.client.unload(model)).await
    }
}

impl App {
    /// Has the repository changed, and learns of it before the caller does: who loads a model and then asks it is served.
    async fn change(&self, change: impl Future<Output = Result<(), Error>>) -> Result<(), ProtocolError> {
        if !self.repository_api {
            return Err(Error::RepositoryClosed.into());
        }
        let changed = change.await;
        // Also after an error: some replicas may have done it.
        self.catalog.refresh(&self.client).await;
        Ok(changed?)
    }
}

/// Hashing large tensors is work for the bench.
async fn ask(
    app: &App,
    model: String,
    version: Option<String>,
    inputs: Vec<Tensor>,
) -> Result<PredictionRequest, ProtocolError> {
    let asked = app.clone();
    let bytes = inputs.iter().map(|tensor| tensor.data.len()).sum();
    let ask = move || asked.predictor.request_from_tensors(&model, version.as_deref(), inputs);
    Ok(app.blocking_pool.run(bytes, ask).await??)
}
