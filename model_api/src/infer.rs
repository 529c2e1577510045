use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use open_inference::{Inference, Provenance, Tensor, Timing, check};

use crate::app::App;
use crate::error::Error;
use crate::model::Model;
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
    let begun = Instant::now();
    let decoded = pictures::decode(app, model, inputs).await?;
    let decoding = begun.elapsed();
    let ran = model.run(decoded.inputs, urgency).await?;
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

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
