//! Inference on one model or one pipeline.

use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use contract::{PipelineRun, empty_outputs};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join_all};
use open_inference::{Inference, Provenance, Tensor, Timing, validate_inputs};

use crate::error::Error;
use crate::image_batch;
use crate::model::{Model, PipelineSteps};
use crate::scheduler::Priority;
use crate::state::AppState;

/// Runs one inference request: validates it against the signature, decodes its images, waits for a batch, runs.
///
/// Dropping the future cancels the request: it leaves the queue, and the decoding of its images stops.
pub async fn infer(
    state: &AppState,
    model: &Arc<Model>,
    inputs: Vec<Tensor>,
    priority: Priority,
) -> Result<Inference, Error> {
    let (started, rows) = (Instant::now(), model.signature.row_count(&inputs));
    let result = run_inference(state, model, inputs, priority).await;
    let (name, version, took) = (&model.name, &model.version, started.elapsed());
    match &result {
        Ok(inference) => {
            state.statistics.record_success(name, version, rows as u64, &inference.provenance.timing_ms, took, None);
            state.metrics.record_prediction(name, version, "ok");
        }
        Err(error) => {
            state.statistics.record_failure(name, version, took);
            state.metrics.record_prediction(name, version, error.status().1);
        }
    }
    result
}

async fn run_inference(
    state: &AppState,
    model: &Arc<Model>,
    inputs: Vec<Tensor>,
    priority: Priority,
) -> Result<Inference, Error> {
    // Transports validate as well, but the model may have been replaced since then.
    validate_inputs(&inputs, &model.metadata)?;
    if let Some(steps) = model.steps() {
        return run_pipeline(state, model, steps, inputs, priority).await;
    }
    let inputs = state.reserve_inputs(inputs)?;
    let started = Instant::now();
    let decoded = image_batch::decode_images(state, model, inputs).await?;
    let decoding = started.elapsed();
    let ran = model.run(decoded, priority).await?;
    Ok(Inference {
        model: model.name.clone(),
        version: model.version.clone(),
        outputs: ran.outputs,
        provenance: Provenance {
            model_digest: model.digest.clone(),
            device: ran.session.device.name.clone(),
            timing_ms: Timing { decode: ms(decoding), queue: ms(ran.queue_time), infer: ms(ran.run_time) },
        },
        headers: HeaderMap::new(),
    })
}

/// Runs a pipeline: each step is an inference request to its model. Independent steps run concurrently. Nothing is cached here.
async fn run_pipeline(
    state: &AppState,
    model: &Model,
    steps: &PipelineSteps,
    inputs: Vec<Tensor>,
    priority: Priority,
) -> Result<Inference, Error> {
    let changed = |error: contract::MissingTensor| Error::InvalidInput(format!("{error}."));
    let mut progress = PipelineRun::new(&steps.pipeline, inputs);
    loop {
        let next = progress.ready_steps().map_err(changed)?;
        if next.is_empty() {
            return progress.finish(&model.name, &model.version).map_err(changed);
        }
        let run = |(number, inputs): (usize, _)| async move {
            let result = run_step(state, &steps.models[number], inputs, priority).await;
            let inference = result.map_err(|error| error.in_step(&steps.pipeline.steps[number].name))?;
            Ok::<_, Error>((number, inference))
        };
        for (number, inference) in try_join_all(next.into_iter().map(run)).await? {
            progress.complete(number, inference);
        }
    }
}

/// Runs one step. The future is boxed, since a step may be a pipeline.
fn run_step<'a>(
    state: &'a AppState,
    model: &'a Arc<Model>,
    inputs: Vec<Tensor>,
    priority: Priority,
) -> BoxFuture<'a, Result<Inference, Error>> {
    let Some(outputs) = empty_outputs(&inputs, &model.metadata.outputs) else {
        return infer(state, model, inputs, priority).boxed();
    };
    let provenance = Provenance { model_digest: model.digest.clone(), ..Provenance::default() };
    let (name, version) = (model.name.clone(), model.version.clone());
    ready(Ok(Inference { model: name, version, outputs, provenance, headers: HeaderMap::new() })).boxed()
}

/// Milliseconds with three decimal places. Seconds times 1000 would have seventeen digits in JSON.
fn ms(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}
