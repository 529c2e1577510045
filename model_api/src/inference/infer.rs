//! Inference on one model or one pipeline.

use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use contract::{Progress, answer_to_nothing};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join_all};
use open_inference::{Inference, Provenance, Tensor, Timing, check};

use crate::error::Error;
use crate::model::{Model, PipelineSteps};
use crate::pictures;
use crate::pool::Urgency;
use crate::state::AppState;

/// The one verb: held against the signature → pictures decoded → its batch awaited → run.
///
/// Dropping the future gives the request up: what waits is left out, and a batch of pictures is decoded no further.
pub async fn infer(
    state: &AppState,
    model: &Arc<Model>,
    inputs: Vec<Tensor>,
    urgency: Urgency,
) -> Result<Inference, Error> {
    let (started, rows) = (Instant::now(), model.signature.row_count(&inputs));
    let answer = run_inference(state, model, inputs, urgency).await;
    let (name, version, took) = (&model.name, &model.version, started.elapsed());
    match &answer {
        Ok(answer) => {
            state.statistics.succeeded(name, version, rows as u64, &answer.provenance.timing_ms, took, None);
            state.metrics.record_prediction(name, version, "ok");
        }
        Err(error) => {
            state.statistics.failed(name, version, took);
            state.metrics.record_prediction(name, version, error.status().1);
        }
    }
    answer
}

async fn run_inference(
    state: &AppState,
    model: &Arc<Model>,
    inputs: Vec<Tensor>,
    urgency: Urgency,
) -> Result<Inference, Error> {
    // Also where a transport has done so: the model may have been changed since then.
    check(&inputs, &model.metadata)?;
    if let Some(steps) = model.steps() {
        return run_pipeline(state, model, steps, inputs, urgency).await;
    }
    let inputs = state.reserve_inputs(inputs)?;
    let started = Instant::now();
    let decoded = pictures::decode(state, model, inputs).await?;
    let decoding = started.elapsed();
    let ran = model.run(decoded, urgency).await?;
    Ok(Inference {
        model: model.name.clone(),
        version: model.version.clone(),
        outputs: ran.outputs,
        provenance: Provenance {
            model_digest: model.digest.clone(),
            device: ran.session.device.name.clone(),
            timing_ms: Timing { decode: ms(decoding), queue: ms(ran.waited), infer: ms(ran.ran) },
        },
        headers: HeaderMap::new(),
    })
}

/// A pipeline: each step as if its model had been asked, those that do not need each other at the same time. Nothing is
/// remembered here.
async fn run_pipeline(
    state: &AppState,
    model: &Model,
    steps: &PipelineSteps,
    inputs: Vec<Tensor>,
    urgency: Urgency,
) -> Result<Inference, Error> {
    let changed = |error: contract::Missing| Error::InvalidInput(error.to_string());
    let mut progress = Progress::new(&steps.pipeline, inputs);
    loop {
        let next = progress.next().map_err(changed)?;
        if next.is_empty() {
            return progress.finish(&model.name, &model.version).map_err(changed);
        }
        let ask = |(number, inputs): (usize, _)| async move {
            let answer = run_step(state, &steps.models[number], inputs, urgency).await;
            let answer = answer.map_err(|error| error.in_step(&steps.pipeline.steps[number].name))?;
            Ok::<_, Error>((number, answer))
        };
        for (number, answer) in try_join_all(next.into_iter().map(ask)).await? {
            progress.answered(number, answer);
        }
    }
}

/// Boxed, as a step may be a pipeline.
fn run_step<'a>(
    state: &'a AppState,
    model: &'a Arc<Model>,
    inputs: Vec<Tensor>,
    urgency: Urgency,
) -> BoxFuture<'a, Result<Inference, Error>> {
    let Some(outputs) = answer_to_nothing(&inputs, &model.metadata.outputs) else {
        return infer(state, model, inputs, urgency).boxed();
    };
    let provenance = Provenance { model_digest: model.digest.clone(), ..Provenance::default() };
    let (name, version) = (model.name.clone(), model.version.clone());
    ready(Ok(Inference { model: name, version, outputs, provenance, headers: HeaderMap::new() })).boxed()
}

/// Milliseconds with three decimal places: a product of seconds and 1000 would have seventeen digits in JSON.
fn ms(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}
