//! A pipeline's answer: each step is a question of its own, asked of the same predictor, and so remembered by itself. What two
//! pipelines have in common, or somebody has asked of a step's model alone, is not computed again; and when a step's model
//! changes, the steps before it are still remembered.

use contract::{MissingTensor, Pipeline, PipelineRun, Step, empty_outputs};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join_all};
use http::{HeaderMap, StatusCode};
use open_inference::{Inference, Provenance, Tensor};

use crate::error::Error;
use crate::predictor::Predictor;
use crate::question::Question;
use crate::steering::Steering;

impl Predictor {
    /// Asks the steps, those that do not need each other at the same time. What `steering` forbids, it forbids them as well.
    ///
    /// The answer has the digest of the models that really answered: one that changes meanwhile files nothing under the
    /// pipeline's old key.
    pub(crate) async fn run_steps(
        &self,
        question: &Question,
        pipeline: &Pipeline,
        steering: Steering,
    ) -> Result<Inference, Error> {
        let mut progress = PipelineRun::new(pipeline, question.inputs());
        loop {
            let next = progress.ready_steps().map_err(|missing| changed(&missing))?;
            if next.is_empty() {
                let model = question.model();
                return progress.finish(&model.name, &model.version).map_err(|missing| changed(&missing));
            }
            let ask = |(number, inputs): (usize, _)| async move {
                let step = &pipeline.steps[number];
                let told = |error| Error::Step { step: step.name.clone(), error: Box::new(error) };
                Ok::<_, Error>((number, self.ask_step(step, inputs, steering).await.map_err(told)?))
            };
            for (number, answer) in try_join_all(next.into_iter().map(ask)).await? {
                progress.complete(number, answer);
            }
        }
    }

    /// Boxed, as a step may be a pipeline.
    fn ask_step<'a>(
        &'a self,
        step: &'a Step,
        inputs: Vec<Tensor>,
        steering: Steering,
    ) -> BoxFuture<'a, Result<Inference, Error>> {
        let ask = async move {
            let question = self.question_of(step, inputs.clone()).await?;
            let model = question.model();
            if let Some(outputs) = empty_outputs(&inputs, &model.outputs) {
                let (name, version) = (model.name.clone(), model.version.clone());
                let provenance = Provenance { model_digest: model.digest.clone(), ..Provenance::default() };
                return Ok(Inference { model: name, version, outputs, provenance, headers: HeaderMap::new() });
            }
            Ok(self.answer(&question, steering).await?.entry.inference.clone())
        };
        ask.boxed()
    }

    async fn question_of(&self, step: &Step, inputs: Vec<Tensor>) -> Result<Question, Error> {
        let (predictor, model, version) = (self.clone(), step.model.clone(), step.version.clone());
        let bytes = inputs.iter().map(|tensor| tensor.data.len()).sum();
        let ask = move || predictor.ask_tensors(&model, version.as_deref(), inputs);
        match self.workbench.run(bytes, ask).await? {
            // Whoever asked has named no such model: the pipeline has, and waits for it.
            Err(Error::UnknownModel { .. } | Error::UnknownVersion { .. }) => {
                Err(Error::NotLoaded { model: step.model.clone(), reason: "it is not loaded".to_owned() })
            }
            Err(Error::Unselected { model, model_name }) => {
                Err(Error::NotLoaded { model, reason: format!("MODEL_NAME={model_name} does not select it") })
            }
            question => question,
        }
    }
}

/// Asking again is enough: the list of models is a second old at most.
fn changed(missing: &MissingTensor) -> Error {
    Error::Model(open_inference::Error::new(StatusCode::SERVICE_UNAVAILABLE, missing.to_string()))
}
