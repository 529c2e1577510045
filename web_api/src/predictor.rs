use std::sync::Arc;

use bytes::Bytes;
use contract::{ImageArray, ModelDescription, Prediction};
use db_api::entry::Entry;
use db_api::keys::{AnswerKey, Input, InputDigest, TensorInput};
use db_api::memory::Memory;

use crate::catalog::Catalog;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::model_client::{ModelClient, Payload};
use crate::settings::AppType;
use crate::steering::{Provenance, Steering};

/// Answers questions: from memory where it can, from the model where it must.
#[derive(Clone)]
pub struct Predictor {
    app_type: AppType,
    catalog: Catalog,
    memory: Memory,
    client: ModelClient,
    metrics: Metrics,
}

/// One model, one input.
pub struct Question {
    model: ModelDescription,
    key: AnswerKey,
    input: InputDigest,
    payload: Payload,
}

/// An answer and where it came from.
pub struct Answer {
    /// The prediction, its key and its age.
    pub entry: Arc<Entry>,
    /// Where it came from.
    pub provenance: Provenance,
}

impl Predictor {
    /// Puts the parts together.
    pub fn new(app_type: AppType, catalog: Catalog, memory: Memory, client: ModelClient, metrics: Metrics) -> Self {
        Self { app_type, catalog, memory, client, metrics }
    }

    /// `model` (or the only one) asked with an encoded picture. Reads all of it.
    pub fn ask_image(&self, model: Option<&str>, image: Bytes) -> Result<Question, Error> {
        let model = self.catalog.find(model)?;
        let input = InputDigest::from(Input::Image(&image));
        Ok(self.question(model, input, Payload::image(image)))
    }

    /// `model` (or the only one) asked with the JSON body of an old client. Reads all of it.
    pub fn ask_array(&self, model: Option<&str>, body: Bytes) -> Result<Question, Error> {
        let model = self.catalog.find(model)?;
        let array = ImageArray::from_json(&body).map_err(|error| Error::Json(error.to_string()))?;
        // The numbers take several times the body's memory and are gone before the model is asked; their spelling does
        // not belong into the key.
        let shape: Vec<u64> = array.shape.iter().map(|&length| length as u64).collect();
        let mut data = Vec::with_capacity(size_of_val(array.values.as_slice()));
        data.extend(array.values.into_iter().flat_map(f32::to_le_bytes));
        let name = model.inputs.first().map_or("", |input| input.name.as_str());
        let tensor = TensorInput { name, datatype: "FP32", shape: &shape, data: &data };
        let input = InputDigest::from(Input::Tensors(&[tensor]));
        Ok(self.question(model, input, Payload::json(body)))
    }

    /// The picture as the model sees it, as a PNG.
    pub async fn input(&self, model: Option<&str>, image: Bytes) -> Result<Bytes, Error> {
        let model = self.catalog.find(model)?;
        self.client.input(&model.name, Payload::image(image)).await
    }

    /// The answer, within what `steering` allows.
    pub async fn answer(&self, question: &Question, steering: Steering) -> Result<Answer, Error> {
        let answer = self.find_or_infer(question, steering).await;
        match &answer {
            Ok(answer) => self.metrics.answered(&question.model.name, answer.provenance.label()),
            Err(error) => self.metrics.failed(error.status().1),
        }
        answer
    }

    async fn find_or_infer(&self, question: &Question, steering: Steering) -> Result<Answer, Error> {
        let (key, model) = (question.key, question.model.name.as_str());
        if steering.no_cache || steering.no_store {
            if steering.only_if_cached {
                return Err(Error::NotRemembered);
            }
            let prediction = self.infer(question).await?;
            let true_key = self.key_of(question, &prediction);
            let entry = if steering.no_store {
                Arc::new(Entry::new(true_key, prediction))
            } else {
                self.memory.remember(true_key, prediction).await
            };
            return Ok(Answer { entry, provenance: Provenance::Bypass { stored: !steering.no_store } });
        }
        let (entry, outcome) = if steering.only_if_cached {
            self.memory.recall(key, model).await.ok_or(Error::NotRemembered)?
        } else {
            let key_of = |prediction: &Prediction| self.key_of(question, prediction);
            self.memory.recall_or_infer(key, model, key_of, self.infer(question)).await?
        };
        Ok(Answer { entry, provenance: Provenance::Memory(outcome) })
    }

    async fn infer(&self, question: &Question) -> Result<Prediction, Error> {
        let prediction = self.client.predict(&question.model.name, question.payload.clone()).await;
        // A question that was turned away here has not been asked.
        if !matches!(prediction, Err(Error::Busy)) {
            self.metrics.inferred(&question.model.name);
        }
        let prediction = prediction?;
        if prediction.provenance.model_digest != question.model.digest {
            self.catalog.refresh_soon();
        }
        Ok(prediction)
    }

    fn question(&self, model: ModelDescription, input: InputDigest, payload: Payload) -> Question {
        let key = AnswerKey::new(self.app_type.as_str(), &model.name, &model.digest, input);
        Question { model, key, input, payload }
    }

    /// The key that `prediction` belongs under: that of the model that really gave it.
    fn key_of(&self, question: &Question, prediction: &Prediction) -> AnswerKey {
        AnswerKey::new(
            self.app_type.as_str(),
            &question.model.name,
            &prediction.provenance.model_digest,
            question.input,
        )
    }
}

impl Question {
    /// The model it is asked of.
    pub fn model(&self) -> &ModelDescription {
        &self.model
    }

    /// The entity tag of its answer: the key, since the same question always has the same answer.
    pub fn etag(&self) -> String {
        format!("\"{}\"", self.key)
    }
}
