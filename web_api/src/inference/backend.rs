//! Backend that runs models: `model_api` through the batcher, or external workers through the job queue.

use bytes::Bytes;
use open_inference::{Inference, Platform, Tensor};

use super::request::PredictionRequest;
use crate::error::Error;
use crate::jobs::throttle::BackgroundThrottle;
use crate::metrics::Metrics;
use crate::upstream::batcher::RequestBatcher;
use crate::upstream::catalog::Catalog;
use crate::upstream::external_workers::ExternalWorkers;
use crate::upstream::model_client::ModelClient;

/// Runs models, and counts the rows.
#[derive(Clone)]
pub struct Backend {
    client: ModelClient,
    batcher: RequestBatcher,
    external_workers: ExternalWorkers,
    catalog: Catalog,
    metrics: Metrics,
    throttle: BackgroundThrottle,
}

impl Backend {
    pub fn new(
        client: ModelClient,
        external_workers: ExternalWorkers,
        catalog: Catalog,
        metrics: Metrics,
        throttle: BackgroundThrottle,
    ) -> Self {
        let batcher = RequestBatcher::new(client.clone());
        Self { client, batcher, external_workers, catalog, metrics, throttle }
    }

    /// Runs the model on the inputs of `request`.
    pub async fn infer(&self, request: &PredictionRequest, in_background: bool) -> Result<Inference, Error> {
        let _copy = self.client.reserve(request.copied_bytes())?;
        self.infer_rows(request, request.inputs(), request.row_count(), in_background).await
    }

    /// Runs the model of `request` on `inputs`, which are `rows` of its rows.
    pub async fn infer_rows(
        &self,
        request: &PredictionRequest,
        inputs: Vec<Tensor>,
        rows: u64,
        in_background: bool,
    ) -> Result<Inference, Error> {
        if !in_background {
            self.throttle.note_foreground();
        }
        let model = request.model();
        let inference = match model.platform {
            // Pipelines come here only if model_api does not publish their steps.
            Platform::OnnxRuntime | Platform::Ensemble => {
                self.batcher.infer(model, request.version(), in_background, inputs).await
            }
            Platform::Queue => self.external_workers.infer(model, &inputs, self.client.timeout()).await,
        };
        // Requests that are rejected because of load do not reach the model.
        if !matches!(inference, Err(Error::Busy | Error::Overloaded { .. })) {
            self.metrics.record_inferences(&model.name, rows);
        }
        let inference = inference?;
        if inference.provenance.model_digest != model.digest {
            self.catalog.request_refresh();
        }
        Ok(inference)
    }

    /// The image after the preprocessing of `model`, as a PNG.
    pub async fn preview(&self, model: &str, image: Bytes) -> Result<Bytes, Error> {
        self.client.preview(model, image).await
    }
}
