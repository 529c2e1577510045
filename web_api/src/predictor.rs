use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use contract::ImageArray;
use db_api::entry::Entry;
use db_api::memory::{Failure, Memory, Outcome};
use open_inference::{CacheLookup, Inference, Platform, Statistics, Tensor, only_required};
use service::memory_budget::Reservation;

use crate::catalog::{Catalog, Listed};
use crate::error::Error;
use crate::gatherer::Gatherer;
use crate::metrics::Metrics;
use crate::model_client::ModelClient;
use crate::people::People;
use crate::question::Question;
use crate::queue_client::QueueClient;
use crate::row_memory::RowMemory;
use crate::settings::AppType;
use crate::steering::{Provenance, Steering, Uncached};
use crate::workbench::Workbench;

/// Answers questions: from memory where it can, from the model where it must.
#[derive(Clone)]
pub struct Predictor {
    app_type: AppType,
    catalog: Catalog,
    memory: Memory<Error>,
    rows: RowMemory,
    model: Model,
    statistics: Statistics,
    /// Where large tensors are hashed.
    pub(crate) workbench: Workbench,
}

/// Asks the model, and counts it.
#[derive(Clone)]
pub(crate) struct Model {
    client: ModelClient,
    gatherer: Gatherer,
    queue: QueueClient,
    catalog: Catalog,
    metrics: Metrics,
    people: People,
}

/// An answer and where it came from.
pub struct Answer {
    /// All outputs, their key and their age.
    pub entry: Arc<Entry>,
    /// Where it came from.
    pub provenance: Provenance,
}

impl Predictor {
    /// Puts the parts together.
    pub fn new(
        app_type: AppType,
        catalog: Catalog,
        memory: Memory<Error>,
        client: ModelClient,
        queue: QueueClient,
        metrics: Metrics,
        workbench: Workbench,
    ) -> Self {
        let gatherer = Gatherer::new(client.clone());
        let model = Model { client, gatherer, queue, catalog: catalog.clone(), metrics, people: People::default() };
        let rows = RowMemory::new(memory.clone(), model.clone(), workbench.clone());
        Self { app_type, catalog, memory, rows, model, statistics: Statistics::default(), workbench }
    }

    /// A version of `model` (or its default one) asked with ready tensors and pictures. Reads all of them.
    pub fn ask_tensors(&self, model: &str, version: Option<&str>, inputs: Vec<Tensor>) -> Result<Question, Error> {
        let model = self.catalog.find_version(model, version)?;
        Ok(Question::new(self.app_type, model, version.is_some(), inputs))
    }

    /// `model` (or the only one) asked with an encoded picture. Reads all of it.
    pub fn ask_image(&self, model: Option<&str>, image: Bytes) -> Result<Question, Error> {
        Question::of_picture(self.app_type, self.catalog.find(model).and_then(known)?, image)
    }

    /// `model` (or the only one) asked with the JSON body of an old client. Reads all of it.
    /// What is allocated for it is reserved in `memory` before.
    pub fn ask_array(&self, model: Option<&str>, body: &[u8], memory: &mut Reservation) -> Result<Question, Error> {
        let model = self.catalog.find(model).and_then(known)?;
        let values = ImageArray::max_value_bytes(body);
        memory.reserve(values)?;
        let array = ImageArray::from_json(body).map_err(|error| Error::Json(error.to_string()))?;
        let input = only_required(&model.inputs).ok_or_else(|| Error::NoArrays(model.name.clone()))?;
        memory.reserve(array.values.len() * input.datatype.size().unwrap_or_default())?;
        // For a model that has its channels first, the numbers are put in another order.
        memory.reserve(values)?;
        let tensor = array.to_tensor(input)?;
        memory.release(2 * values);
        Ok(Question::new(self.app_type, model, false, vec![tensor]))
    }

    /// The picture as the model sees it, as a PNG.
    pub async fn input(&self, model: Option<&str>, image: Bytes) -> Result<Bytes, Error> {
        let model = self.catalog.find(model)?;
        self.model.client.input(&model.name, image).await
    }

    /// Who waits for an answer that has to be computed.
    pub fn people(&self) -> &People {
        &self.model.people
    }

    /// What was asked of each model, by every route.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// The answer, within what `steering` allows.
    pub async fn answer(&self, question: &Question, steering: Steering) -> Result<Answer, Error> {
        let begun = Instant::now();
        let answer = self.find_or_infer(question, steering).await;
        let (name, rows) = (question.model().name.as_str(), question.count());
        match &answer {
            Ok(Answer { entry, provenance }) => {
                let inference = &entry.inference;
                let cache = match provenance {
                    Provenance::Bypass(_) | Provenance::Uncached(_) => None,
                    _ if provenance.cost_nothing() => Some(CacheLookup::Hit),
                    _ => Some(CacheLookup::Miss),
                };
                // Of a batch of which some rows were known, only the others have run.
                let ran = if let Provenance::Rows(rows) = provenance { rows.miss } else { rows };
                let timing = &inference.provenance.timing_ms;
                self.statistics.succeeded(name, &inference.version, ran, timing, begun.elapsed(), cache);
                self.model.metrics.answered(name, *provenance, rows);
            }
            Err(error) => {
                self.statistics.failed(name, &question.model().version, begun.elapsed());
                self.model.metrics.failed(error.status().1);
            }
        }
        answer
    }

    async fn find_or_infer(&self, question: &Question, steering: Steering) -> Result<Answer, Error> {
        if steering.reads_memory()
            && question.rows().is_empty()
            && question.uncached().is_none()
            && let Some(entry) = self.memory.recall_near(question.key())
        {
            return Ok(Answer { entry, provenance: Provenance::Memory(Outcome::Near) });
        }
        // What a hit does not need stays out of its future, which is moved several times on the way.
        Box::pin(self.look_further(question, steering)).await
    }

    async fn look_further(&self, question: &Question, steering: Steering) -> Result<Answer, Error> {
        if let Some(reason) = question.uncached() {
            return self.compute_uncached(question, reason, steering).await;
        }
        if !steering.reads_memory() {
            return self.bypass(question, steering).await;
        }
        if !question.rows().is_empty()
            && let Some(answer) = self.rows.answer(question, steering).await?
        {
            return Ok(answer);
        }
        let (key, name) = (question.key(), question.model().name.as_str());
        let (entry, outcome) = if steering.only_if_cached {
            self.memory.recall(key, name).await.ok_or(Error::NotRemembered)?
        } else {
            let infer = async { self.infer(question, steering).await.map_err(Failure::from) };
            let (priority, key_of) = (steering.priority(), |inference: &Inference| question.key_of(inference));
            let found = self.memory.recall_or_infer(key, name, priority, key_of, infer).await;
            found.map_err(|failure| failure.error)?
        };
        if question.version().is_some_and(|version| version != entry.inference.version) {
            // Somebody who left the choice asked for the same at the same moment, and the choice changed.
            return self.bypass(question, Steering { no_cache: true, ..steering }).await;
        }
        Ok(Answer { entry, provenance: Provenance::Memory(outcome) })
    }

    /// Runs a model whose results are not cached. Identical concurrent requests are computed one by one: a shared result
    /// is what these models must not give. The steps of a pipeline are cached as their own models allow.
    async fn compute_uncached(
        &self,
        question: &Question,
        reason: Uncached,
        steering: Steering,
    ) -> Result<Answer, Error> {
        if steering.only_if_cached {
            return Err(Error::NotRemembered);
        }
        let inference = self.infer(question, steering).await?;
        let entry = Arc::new(Entry::new(question.key_of(&inference), inference));
        Ok(Answer { entry, provenance: Provenance::Uncached(reason) })
    }

    /// Does not look before it asks the model.
    async fn bypass(&self, question: &Question, steering: Steering) -> Result<Answer, Error> {
        if steering.only_if_cached {
            return Err(Error::NotRemembered);
        }
        let inference = self.infer(question, steering).await?;
        let key = question.key_of(&inference);
        if steering.no_store {
            return Ok(Answer { entry: Arc::new(Entry::new(key, inference)), provenance: Provenance::Bypass(None) });
        }
        let (entry, storage) = match self.rows.remember(question, &inference).await? {
            Some(storage) => (Arc::new(Entry::new(key, inference)), storage),
            None => self.memory.remember(key, inference),
        };
        Ok(Answer { entry, provenance: Provenance::Bypass(Some(storage)) })
    }

    async fn infer(&self, question: &Question, steering: Steering) -> Result<Inference, Error> {
        match &question.model().pipeline {
            Some(pipeline) => self.run_steps(question, pipeline, steering).await,
            None => self.model.infer(question, steering.in_background).await,
        }
    }
}

impl Model {
    async fn infer(&self, question: &Question, in_background: bool) -> Result<Inference, Error> {
        let _copy = self.client.reserve(question.copied_bytes())?;
        self.infer_some(question, question.inputs(), question.count(), in_background).await
    }

    /// Asks for `rows` of `question`, which are `inputs`.
    pub(crate) async fn infer_some(
        &self,
        question: &Question,
        inputs: Vec<Tensor>,
        rows: u64,
        in_background: bool,
    ) -> Result<Inference, Error> {
        if !in_background {
            self.people.are_asking();
        }
        let model = question.model();
        let inference = match model.platform {
            // A pipeline comes here only from a model_api that keeps its steps to itself.
            Platform::OnnxRuntime | Platform::Ensemble => {
                self.gatherer.infer(model, question.version(), in_background, inputs).await
            }
            Platform::Queue => self.queue.infer(model, &inputs, self.client.patience()).await,
        };
        // A request that was rejected for load has not been run.
        if !matches!(inference, Err(Error::Busy | Error::Overloaded { .. })) {
            self.metrics.inferred(&model.name, rows);
        }
        let inference = inference?;
        if inference.provenance.model_digest != model.digest {
            self.catalog.refresh_soon();
        }
        Ok(inference)
    }
}

/// An error when nothing is known of a model but its name.
pub(crate) fn known(model: Listed) -> Result<Listed, Error> {
    if model.inputs.is_empty() && model.outputs.is_empty() {
        let reason = model.reason.clone().unwrap_or_else(|| "it is being loaded".to_owned());
        return Err(Error::NotLoaded { model: model.name.clone(), reason });
    }
    Ok(model)
}
