use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use contract::{PipelineRun, empty_outputs};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join_all};
use open_inference::{Inference, Provenance, Tensor, Timing, check};

use crate::app::App;
use crate::error::Error;
use crate::model::{Model, Steps};
use crate::pictures;
use crate::pool::Urgency;

/// The one verb: held against the signature → pictures decoded → its batch awaited → run.
///
/// Dropping the future gives the request up: what waits is left out, and a batch of pictures is decoded no further.
pub async fn infer(app: &App, model: &Arc<Model>, inputs: Vec<Tensor>, urgency: Urgency) -> Result<Inference, Error> {
    let (begun, rows) = (Instant::now(), model.signature.rows(&inputs));
    let answer = answer(app, model, inputs, urgency).await;
    let (name, version, took) = (&model.name, &model.version, begun.elapsed());
    match &answer {
        Ok(answer) => {
            app.statistics.succeeded(name, version, rows as u64, &answer.provenance.timing_ms, took, None);
            app.metrics.predicted(name, version, "ok");
        }
        Err(error) => {
            app.statistics.failed(name, version, took);
            app.metrics.predicted(name, version, error.status().1);
        }
    }
    answer
}

async fn answer(app: &App, model: &Arc<Model>, inputs: Vec<Tensor>, urgency: Urgency) -> Result<Inference, Error> {
    // Also where a transport has done so: the model may have been changed since then.
    check(&inputs, &model.metadata)?;
    if let Some(steps) = model.steps() {
        return run_steps(app, model, steps, inputs, urgency).await;
    }
    let inputs = app.hold(inputs)?;
    let begun = Instant::now();
    let decoded = pictures::decode(app, model, inputs).await?;
    let decoding = begun.elapsed();
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
async fn run_steps(
    app: &App,
    model: &Model,
    steps: &Steps,
    inputs: Vec<Tensor>,
    urgency: Urgency,
) -> Result<Inference, Error> {
    let changed = |error: contract::MissingTensor| Error::Unfit(error.to_string());
    let mut progress = PipelineRun::new(&steps.pipeline, inputs);
    loop {
        let next = progress.ready_steps().map_err(changed)?;
        if next.is_empty() {
            return progress.finish(&model.name, &model.version).map_err(changed);
        }
        let ask = |(number, inputs): (usize, _)| async move {
            let answer = run_step(app, &steps.models[number], inputs, urgency).await;
            let answer = answer.map_err(|error| error.of_step(&steps.pipeline.steps[number].name))?;
            Ok::<_, Error>((number, answer))
        };
        for (number, answer) in try_join_all(next.into_iter().map(ask)).await? {
            progress.complete(number, answer);
        }
    }
}

/// Boxed, as a step may be a pipeline.
fn run_step<'a>(
    app: &'a App,
    model: &'a Arc<Model>,
    inputs: Vec<Tensor>,
    urgency: Urgency,
) -> BoxFuture<'a, Result<Inference, Error>> {
    let Some(outputs) = empty_outputs(&inputs, &model.metadata.outputs) else {
        return infer(app, model, inputs, urgency).boxed();
    };
    let provenance = Provenance { model_digest: model.digest.clone(), ..Provenance::default() };
    let (name, version) = (model.name.clone(), model.version.clone());
    ready(Ok(Inference { model: name, version, outputs, provenance, headers: HeaderMap::new() })).boxed()
}

/// Milliseconds with three decimal places: a product of seconds and 1000 would have seventeen digits in JSON.
fn ms(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}
