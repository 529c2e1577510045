use std::sync::{Arc, OnceLock};

use contract::{Device, ModelDescription, Pipeline};
use open_inference::{
    Batching, ModelMetadata, ModelState, NotCached, Platform, RowDependence, Tensor, TensorMetadata, gives_optional,
    image_settings, only_required,
};

use crate::analysis::GraphFacts;
use crate::contents::Contents;
use crate::error::Error;
use crate::image_input::ImageSpec;
use crate::model_settings::{Extra, ModelSettings};
use crate::pipeline::{Definition, Wired};
use crate::pool::{Pool, Ran, State, Urgency};
use crate::repository::ModelFiles;
use crate::session::{Hello, StartError};
use crate::signature::Signature;

/// A model whose files have been read, and what runs it.
pub struct Model {
    /// The name in routes.
    pub name: String,
    /// The version that is served.
    pub version: String,
    /// Of graph, external data and settings: `sha256:<hex>`.
    pub digest: String,
    /// Words for people.
    pub extra: Extra,
    /// What of its files is not used, for the repository's index.
    pub notes: Vec<String>,
    /// What goes in and what comes out.
    pub signature: Signature,
    /// The same in the protocol's words.
    pub metadata: Arc<ModelMetadata>,
    /// What the settings say of the cache.
    cache: Option<bool>,
    /// The metadata after mixing was revoked.
    metadata_since: OnceLock<Arc<ModelMetadata>>,
    runs: Runs,
}

/// What runs a model.
enum Runs {
    Sessions(Arc<Pool>),
    Steps(Steps),
}

/// What runs a pipeline: other models, one after the other.
pub struct Steps {
    /// What its settings say.
    pub definition: Arc<Definition>,
    /// The same, with all outputs.
    pub pipeline: Pipeline,
    /// One for each step. Who holds the pipeline holds them.
    pub models: Vec<Arc<Model>>,
}

impl Model {
    /// A model whose first session has said hello. The error names the setting that contradicts the graph.
    pub fn new(files: &ModelFiles, contents: &Contents, graph: &Hello, pool: Arc<Pool>) -> Result<Self, String> {
        let signature = Signature::agree(&contents.settings, graph)?;
        let (settings, digest) = (&contents.settings, contents.digest.clone());
        let model = Self::with(files, settings, digest, signature, Runs::Sessions(pool));
        Ok(Self { notes: contents.notes.clone(), ..model })
    }

    /// A pipeline of `models`, one for each step. The error names the step and the field that do not fit.
    pub fn of_steps(definition: &Arc<Definition>, models: Vec<Arc<Model>>) -> Result<Self, String> {
        let Wired { pipeline, signature } = definition.wire(&models)?;
        let digest = pipeline.digest(models.iter().map(|model| model.digest.as_str()));
        let notice = notice(&definition.settings.parameters.extra, &models);
        let steps = Runs::Steps(Steps { definition: Arc::clone(definition), pipeline, models });
        let mut model = Self::with(&definition.files, &definition.settings, digest, signature, steps);
        model.extra.notice = notice;
        Ok(model)
    }

    /// A model whose first session has yet to say hello: what its files alone say of it. An answer that was remembered
    /// is found by the digest, and shown with the notice, while the model itself is still being started.
    pub fn announced(files: &ModelFiles, contents: &Contents, pool: Arc<Pool>) -> Self {
        let Contents { settings, digest, names, .. } = contents;
        let signature = Signature::declared(settings, names.as_ref());
        Self::with(files, settings, digest.clone(), signature, Runs::Sessions(pool))
    }

    fn with(files: &ModelFiles, settings: &ModelSettings, digest: String, signature: Signature, runs: Runs) -> Self {
        let (name, version) = (files.name.clone(), files.version.clone());
        let metadata = ModelMetadata {
            name: name.clone(),
            version: version.clone(),
            inputs: signature.inputs.clone(),
            outputs: signature.outputs.clone(),
            max_batch_size: signature.max_batch_size,
            platform: runs.platform(),
            batching: runs.batching(),
            not_cached: runs.not_cached(settings.cache),
        };
        Self {
            name,
            version,
            digest,
            signature,
            metadata: Arc::new(metadata),
            cache: settings.cache,
            metadata_since: OnceLock::new(),
            extra: settings.parameters.extra.clone(),
            notes: Vec::new(),
            runs,
        }
    }

    /// In the protocol's words, as the model is now.
    pub fn metadata(&self) -> Arc<ModelMetadata> {
        let batching = self.runs.batching();
        if batching == self.metadata.batching {
            return Arc::clone(&self.metadata);
        }
        // Decided once and revoked once, so there is one other.
        let not_cached = self.runs.not_cached(self.cache);
        let since = || Arc::new(ModelMetadata { batching, not_cached, ..(*self.metadata).clone() });
        Arc::clone(self.metadata_since.get_or_init(since))
    }

    /// Whether its requests run in one batch, and why; `None` for a pipeline and before the first session.
    pub fn batching(&self) -> Option<Batching> {
        self.runs.batching()
    }

    /// Why its results are not cached.
    pub fn not_cached(&self) -> Option<NotCached> {
        self.runs.not_cached(self.cache)
    }

    /// The input that pictures can be sent for, and how they become it.
    pub fn image(&self) -> Result<(&TensorMetadata, &ImageSpec), Error> {
        self.signature.image().ok_or_else(|| {
            let remedy = image_settings(&self.name, &self.signature.inputs).map(|remedy| format!(". {remedy}"));
            Error::Unfit(format!("{} reads no pictures{}", self.name, remedy.unwrap_or_default()))
        })
    }

    /// The input of a model that has one.
    pub fn only_input(&self) -> Result<&TensorMetadata, Error> {
        let inputs = &self.signature.inputs;
        let several = || Error::Unfit(format!("{} has {} inputs, and only one was sent", self.name, inputs.len()));
        only_required(inputs).ok_or_else(several)
    }

    /// Its steps, where it is a pipeline.
    pub fn steps(&self) -> Option<&Steps> {
        match &self.runs {
            Runs::Steps(steps) => Some(steps),
            Runs::Sessions(_) => None,
        }
    }

    /// Runs the model on these inputs, as soon as a session is idle. A pipeline has none: its steps are to be run.
    pub async fn run(&self, mut inputs: Vec<Tensor>, urgency: Urgency) -> Result<Ran, Error> {
        if inputs.len() > 1 {
            // Requests go together when their inputs stand in the same order, and callers have an order each.
            let place = |tensor: &Tensor| self.signature.inputs.iter().position(|input| input.name == tensor.name);
            inputs.sort_by_key(place);
        }
        match &self.runs {
            Runs::Sessions(pool) if gives_optional(&inputs, &self.signature.inputs) => {
                Ok(pool.run_alone(inputs, urgency).await?)
            }
            Runs::Sessions(pool) => Ok(pool.run(inputs, urgency).await?),
            Runs::Steps(_) => Err(Error::Internal),
        }
    }

    /// Ends its sessions. The models of a pipeline's steps are others' to stop.
    pub async fn stop(&self) {
        if let Runs::Sessions(pool) = &self.runs {
            pool.stop().await;
        }
    }

    /// Resolves when its sessions have ended, as they do when nobody holds the model any more.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let ended = match &self.runs {
            Runs::Sessions(pool) => Some(pool.ended()),
            Runs::Steps(_) => None,
        };
        async move {
            if let Some(ended) = ended {
                ended.await;
            }
        }
    }

    /// What its sessions can do now, or those of its steps.
    pub fn state(&self) -> State {
        match &self.runs {
            Runs::Sessions(pool) => pool.state(),
            Runs::Steps(steps) => steps.state(),
        }
    }

    /// What people and programs may know of it, with its sessions in this state.
    pub fn describe(&self, state: State) -> ModelDescription {
        let signature = &self.signature;
        let batching = self.runs.batching();
        // What has shown that its rows depend on each other has none that could be kept one by one.
        let are_independent =
            batching.as_ref().is_none_or(|batching| batching.rows == RowDependence::IndependentBySettings);
        ModelDescription {
            title: self.extra.title.clone().unwrap_or_else(|| self.name.clone()),
            description: self.extra.description.clone(),
            notice: self.extra.notice.clone(),
            digest: self.digest.clone(),
            inputs: signature.inputs.clone(),
            outputs: signature.outputs.clone(),
            left_out: signature.left_out.clone(),
            notes: self.notes.clone(),
            max_batch_size: signature.max_batch_size,
            independent_rows: signature.independent_rows && are_independent,
            // A picture alone is no question to a model that wants more than that.
            image: signature.only_image().map(ImageSpec::describe),
            pipeline: self.steps().map(|steps| steps.pipeline.clone()),
            platform: self.metadata.platform,
            batching,
            not_cached: self.not_cached(),
            wrong_before_ms: self.runs.wrong_before_ms(),
            ..describe_state(&self.name, &self.version, state)
        }
    }
}

impl Runs {
    fn platform(&self) -> Platform {
        match self {
            Self::Sessions(_) => Platform::OnnxRuntime,
            Self::Steps(_) => Platform::Ensemble,
        }
    }

    /// Each step's model decides for itself.
    fn batching(&self) -> Option<Batching> {
        match self {
            Self::Sessions(pool) => pool.batching(),
            Self::Steps(_) => None,
        }
    }

    /// With this setting of the model's own. A pipeline's results are no more lasting than those of its steps.
    fn not_cached(&self, cache: Option<bool>) -> Option<NotCached> {
        if cache == Some(false) {
            return Some(NotCached::Settings);
        }
        match self {
            Self::Sessions(pool) => (cache.is_none() && pool.is_random()).then_some(NotCached::Random),
            Self::Steps(steps) => steps.models.iter().find_map(|model| model.not_cached()),
        }
    }

    /// The last moment of its steps, where it is a pipeline.
    fn wrong_before_ms(&self) -> Option<u64> {
        match self {
            Self::Sessions(pool) => pool.wrong_before_ms(),
            Self::Steps(steps) => steps.models.iter().filter_map(|model| model.runs.wrong_before_ms()).max(),
        }
    }
}

impl Steps {
    /// That of the step which does worst.
    fn state(&self) -> State {
        let mut devices: Vec<Device> = Vec::new();
        let mut is_starting = false;
        for (step, model) in self.pipeline.steps.iter().zip(&self.models) {
            match model.state() {
                State::Ready(hello) => devices.push(hello.device.clone()),
                State::Starting => is_starting = true,
                State::Unavailable(error) => {
                    return State::Unavailable(StartError::Model(format!("step {:?}: {error}", step.name)));
                }
            }
        }
        match devices.split_first() {
            Some((first, others)) if !is_starting => State::Ready(Arc::new(Hello {
                inputs: Vec::new(),
                outputs: Vec::new(),
                left_out: Vec::new(),
                device: joined(first, others),
                facts: GraphFacts::default(),
            })),
            _ => State::Starting,
        }
    }
}

/// A pipeline's own notice, and those of its steps' models: they are to be said wherever an answer of theirs is shown.
fn notice(own: &Extra, models: &[Arc<Model>]) -> Option<String> {
    let mut notices: Vec<&str> = Vec::new();
    let of_models = models.iter().map(|model| &model.extra.notice);
    for notice in std::iter::once(&own.notice).chain(of_models).flatten() {
        if !notices.iter().any(|said| said.contains(notice.as_str())) {
            notices.push(notice);
        }
    }
    (!notices.is_empty()).then(|| notices.join(" "))
}

/// What several models run on, as one.
fn joined(first: &Device, others: &[Device]) -> Device {
    let mut joined = first.clone();
    for other in others {
        if !joined.name.split(", ").any(|name| name == other.name) {
            joined.name = format!("{}, {}", joined.name, other.name);
        }
        joined.fallback_reason = joined.fallback_reason.or_else(|| other.fallback_reason.clone());
    }
    joined
}

/// What there is to say of a model whose files have not been read.
pub fn describe_state(name: &str, version: &str, state: State) -> ModelDescription {
    let (state, reason, device) = match state {
        State::Ready(hello) => (ModelState::Ready, None, Some(hello.device.clone())),
        State::Starting => (ModelState::Loading, Some("a session is being started".to_owned()), None),
        State::Unavailable(error) => (ModelState::Unavailable, Some(error.to_string()), None),
    };
    ModelDescription { device, ..ModelDescription::placeholder(name, version, state, reason) }
}
