use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use contract::ImageArray;
use open_inference::{Inference, Provenance, Tensor, Timing};
use service::body::ReadBody;

use crate::app::App;
use crate::error::Error;
use crate::image_input;
use crate::model::Model;

/// What a model is asked with.
#[derive(Debug)]
pub enum Question {
    /// An encoded picture.
    Picture(ReadBody),
    /// `{"image_arr": <nested list>}`.
    Array(ReadBody),
}

/// The one verb: decode → wait for a session → run → read out.
pub async fn infer(app: &App, model: &Arc<Model>, question: Question) -> Result<Inference, Error> {
    let answer = answer(app, model, question).await;
    let outcome = answer.as_ref().map_or_else(|error| error.status().1, |_| "ok");
    app.metrics.predicted(&model.name, &model.version, outcome);
    answer
}

async fn answer(app: &App, model: &Arc<Model>, question: Question) -> Result<Inference, Error> {
    let begun = Instant::now();
    let tensor = decode(app, model, question).await?;
    let decoding = begun.elapsed();
    let ran = model.run(vec![tensor]).await?;
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

async fn decode(app: &App, model: &Arc<Model>, question: Question) -> Result<Tensor, Error> {
    let (model, limits) = (Arc::clone(model), app.image_limits);
    app.decoder
        .run(move || match question {
            Question::Picture(body) => {
                let picture = image_input::read(&body.bytes, model.image()?, &limits)?;
                let input = model.only_input()?;
                let shape = input.shape.iter().map(|&length| usize::try_from(length).unwrap_or(1)).collect();
                Tensor::from_f32(&input.name, input.datatype, shape, &picture.tensor())
                    .map_err(|error| Error::Unfit(error.to_string()))
            }
            Question::Array(body) => {
                let array = ImageArray::from_json(&body.bytes).map_err(|error| Error::Malformed(error.to_string()))?;
                array.fit(model.only_input()?).map_err(|error| Error::Unfit(error.to_string()))
            }
        })
        .await
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
