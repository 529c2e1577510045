//! Execution of a pipeline: each step is a request of its own to the same predictor, and so is cached on its own.
//!
//! Steps that pipelines share, or that clients have requested directly, are not computed again. When the model of a step changes, the
//! steps before it are still cached.

use contract::{MissingTensor, Pipeline, PipelineRun, Step, empty_outputs};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join_all};
use http::{HeaderMap, StatusCode};
use open_inference::{Inference, Provenance, Tensor};

use super::predictor::Predictor;
use super::request::PredictionRequest;
use crate::cache_control::RequestOptions;
use crate::error::Error;

impl Predictor {
    /// Runs the steps of a pipeline; independent steps run concurrently. `options` applies to each step.
    ///
    /// The digest of the result is that of the models that computed it. So if a model changes meanwhile, nothing is stored under the
    /// pipeline's old key.
    pub(super) async fn run_steps(
        &self,
        request: &PredictionRequest,
        pipeline: &Pipeline,
        options: RequestOptions,
    ) -> Result<Inference, Error> {
        let mut run = PipelineRun::new(pipeline, request.inputs());
        loop {
            let ready = run.ready_steps().map_err(|missing| pipeline_changed(&missing))?;
            if ready.is_empty() {
                let model = request.model();
                return run.finish(&model.name, &model.version).map_err(|missing| pipeline_changed(&missing));
            }
            let execute = |(number, inputs): (usize, _)| async move {
                let step = &pipeline.steps[number];
                let in_step = |error| Error::PipelineStep { step: step.name.clone(), error: Box::new(error) };
                Ok::<_, Error>((number, self.run_step(step, inputs, options).await.map_err(in_step)?))
            };
            for (number, inference) in try_join_all(ready.into_iter().map(execute)).await? {
                run.complete(number, inference);
            }
        }
    }

    /// Boxed, because a step may be a pipeline.
    fn run_step<'a>(
        &'a self,
        step: &'a Step,
        inputs: Vec<Tensor>,
        options: RequestOptions,
    ) -> BoxFuture<'a, Result<Inference, Error>> {
        let run = async move {
            let request = self.request_of(step, inputs.clone()).await?;
            let model = request.model();
            if let Some(outputs) = empty_outputs(&inputs, &model.outputs) {
                let (name, version) = (model.name.clone(), model.version.clone());
                let provenance = Provenance { model_digest: model.digest.clone(), ..Provenance::default() };
                return Ok(Inference { model: name, version, outputs, provenance, headers: HeaderMap::new() });
            }
            Ok(self.predict(&request, options).await?.entry.inference.clone())
        };
        run.boxed()
    }

    async fn request_of(&self, step: &Step, inputs: Vec<Tensor>) -> Result<PredictionRequest, Error> {
        let (predictor, model, version) = (self.clone(), step.model.clone(), step.version.clone());
        let bytes = inputs.iter().map(|tensor| tensor.data.len()).sum();
        let build = move || predictor.request_from_tensors(&model, version.as_deref(), inputs);
        match self.blocking_pool.run(bytes, build).await? {
            // Not a client error: the pipeline names the model, and can run once it is loaded.
            Err(Error::UnknownModel { .. } | Error::UnknownVersion { .. }) => {
                Err(Error::ModelNotReady { model: step.model.clone(), reason: "it is not loaded".to_owned() })
            }
            Err(Error::ModelNotSelected { model, model_name }) => {
                Err(Error::ModelNotReady { model, reason: format!("MODEL_NAME={model_name} does not select it") })
            }
            request => request,
        }
    }
}

/// A retry succeeds, because the catalog is refreshed every second.
fn pipeline_changed(missing: &MissingTensor) -> Error {
    Error::Model(open_inference::Error::new(StatusCode::SERVICE_UNAVAILABLE, missing.to_string()))
}
