use std::sync::Arc;

use bytes::Bytes;
use contract::{ImageArray, ModelDescription};
use db_api::entry::Entry;
use db_api::keys::{AnswerKey, Input, TensorInput};
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
    input: QuestionInput,
}

enum QuestionInput {
    Image(Bytes),
    /// The JSON as it came, and the tensor in it: the spelling of its numbers does not belong into the key.
    Array {
        body: Bytes,
        shape: Vec<u64>,
        data: Vec<u8>,
    },
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

    /// `model` (or the only one) asked with an encoded picture.
    pub fn ask_image(&self, model: Option<&str>, image: Bytes) -> Result<Question, Error> {
        Ok(self.question(self.catalog.find(model)?, QuestionInput::Image(image)))
    }

    /// `model` (or the only one) asked with the JSON body of an old client, of which `array` was read.
    pub fn ask_array(&self, model: Option<&str>, body: Bytes, array: &ImageArray) -> Result<Question, Error> {
        let input = QuestionInput::Array {
            body,
            shape: array.shape.iter().map(|length| *length as u64).collect(),
            data: array.values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        Ok(self.question(self.catalog.find(model)?, input))
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
            let true_key = self.key_of(question, &prediction.model_digest);
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
            let key_of = |prediction: &contract::Prediction| self.key_of(question, &prediction.model_digest);
            self.memory.recall_or_infer(key, model, key_of, self.infer(question)).await?
        };
        Ok(Answer { entry, provenance: Provenance::Memory(outcome) })
    }

    async fn infer(&self, question: &Question) -> Result<contract::Prediction, Error> {
        self.metrics.inferred(&question.model.name);
        let prediction = self.client.predict(&question.model.name, question.payload()).await?;
        if prediction.model_digest != question.model.digest {
            self.catalog.refresh_soon();
        }
        Ok(prediction)
    }

    fn question(&self, model: ModelDescription, input: QuestionInput) -> Question {
        let key = self.key(&model, &model.digest, &input);
        Question { model, key, input }
    }

    /// The key that the answer belongs under when the model with `digest` gave it.
    fn key_of(&self, question: &Question, digest: &str) -> AnswerKey {
        if digest == question.model.digest { question.key } else { self.key(&question.model, digest, &question.input) }
    }

    fn key(&self, model: &ModelDescription, digest: &str, input: &QuestionInput) -> AnswerKey {
        let app_type = self.app_type.as_str();
        match input {
            QuestionInput::Image(bytes) => AnswerKey::new(app_type, &model.name, digest, Input::Image(bytes)),
            QuestionInput::Array { shape, data, .. } => {
                let name = model.inputs.first().map_or("", |input| input.name.as_str());
                let tensor = TensorInput { name, datatype: "FP32", shape, data };
                AnswerKey::new(app_type, &model.name, digest, Input::Tensors(&[tensor]))
            }
        }
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

    fn payload(&self) -> Payload {
        match &self.input {
            QuestionInput::Image(bytes) => Payload::image(bytes.clone()),
            QuestionInput::Array { body, .. } => Payload::json(body.clone()),
        }
    }
}
