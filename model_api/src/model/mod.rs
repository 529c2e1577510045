//! One model version: what it takes and returns, and the sessions or pipeline steps that run it.

mod description;
pub mod loader;
mod output_settings;
pub mod pipeline;
pub mod signature;

use std::sync::{Arc, OnceLock};

use contract::{Device, ModelDescription, Pipeline};
use open_inference::{
    Batching, ModelMetadata, NotCached, Platform, RowDependence, Tensor, TensorMetadata, has_optional_input,
    image_settings_hint, only_required_input,
};

use crate::error::Error;
use crate::onnx::analysis::GraphFacts;
use crate::preprocessing::ImageSpec;
use crate::repository::ModelFiles;
use crate::repository::manifest::ModelManifest;
use crate::repository::model_settings::{DisplayTexts, ModelSettings};
use crate::scheduler::{Pool, PoolState, Priority, RunOutput};
use crate::session::{SessionInfo, StartError};
pub use description::describe_state;
use description::{combined_device, combined_notice};
use pipeline::{PipelineDefinition, StepModel, ValidatedPipeline};
use signature::Signature;

/// A model version whose files have been read, and what runs it.
pub struct Model {
    /// The name in routes.
    pub name: String,
    /// The version in routes.
    pub version: String,
    /// Digest of graph, external data and settings: `sha256:<hex>`.
    pub digest: String,
    /// Title, description and notice.
    pub texts: DisplayTexts,
    /// Parts of its files that are not used, for the repository index.
    pub notes: Vec<String>,
    /// Inputs and outputs.
    pub signature: Signature,
    /// Inputs and outputs as the protocol describes them.
    pub metadata: Arc<ModelMetadata>,
    /// `cache` in the settings.
    cache: Option<bool>,
    /// The metadata after batching was revoked.
    metadata_after_revocation: OnceLock<Arc<ModelMetadata>>,
    executor: Executor,
}

/// What runs a model.
enum Executor {
    Sessions(Arc<Pool>),
    Pipeline(PipelineSteps),
}

/// Executor of a pipeline: the models of its steps.
pub struct PipelineSteps {
    /// The settings.
    pub definition: Arc<PipelineDefinition>,
    /// Steps and outputs; all outputs of the last step where the settings name none.
    pub pipeline: Pipeline,
    /// One for each step. They stay loaded as long as the pipeline is referenced.
    pub models: Vec<Arc<Model>>,
}

impl Model {
    /// A model whose first session has started. The error names the setting that contradicts the graph.
    pub fn from_session(
        files: &ModelFiles,
        manifest: &ModelManifest,
        session: &SessionInfo,
        pool: Arc<Pool>,
    ) -> Result<Self, String> {
        let signature = Signature::merge(&manifest.settings, session)?;
        let (settings, digest) = (&manifest.settings, manifest.digest.clone());
        let model = Self::new(files, settings, digest, signature, Executor::Sessions(pool));
        Ok(Self { notes: manifest.notes.clone(), ..model })
    }

    /// A pipeline of `models`, one for each step. The error names the step and the field that do not fit.
    pub fn from_steps(definition: &Arc<PipelineDefinition>, models: Vec<Arc<Self>>) -> Result<Self, String> {
        let step_models: Vec<_> = models.iter().map(|model| model.as_step()).collect();
        let ValidatedPipeline { pipeline, signature } = definition.validate(&step_models)?;
        let digest = pipeline.digest(models.iter().map(|model| model.digest.as_str()));
        let own_notice = std::iter::once(definition.settings.parameters.extra.notice.as_ref());
        let notice = combined_notice(own_notice.chain(models.iter().map(|model| model.texts.notice.as_ref())));
        let steps = Executor::Pipeline(PipelineSteps { definition: Arc::clone(definition), pipeline, models });
        let mut model = Self::new(&definition.files, &definition.settings, digest, signature, steps);
        model.texts.notice = notice;
        Ok(model)
    }

    /// A model whose first session has not started yet, as its files alone describe it. While it starts, cached results are
    /// found by its digest and shown with its notice.
    pub fn preliminary(files: &ModelFiles, manifest: &ModelManifest, pool: Arc<Pool>) -> Self {
        let ModelManifest { settings, digest, names, .. } = manifest;
        let signature = Signature::from_settings(settings, names.as_ref());
        Self::new(files, settings, digest.clone(), signature, Executor::Sessions(pool))
    }

    fn new(
        files: &ModelFiles,
        settings: &ModelSettings,
        digest: String,
        signature: Signature,
        executor: Executor,
    ) -> Self {
        let (name, version) = (files.name.clone(), files.version.clone());
        let metadata = ModelMetadata {
            name: name.clone(),
            version: version.clone(),
            inputs: signature.inputs.clone(),
            outputs: signature.outputs.clone(),
            max_batch_size: signature.max_batch_size,
            platform: executor.platform(),
            batching: executor.batching(),
            not_cached: executor.not_cached(settings.cache),
        };
        Self {
            name,
            version,
            digest,
            signature,
            metadata: Arc::new(metadata),
            cache: settings.cache,
            metadata_after_revocation: OnceLock::new(),
            texts: settings.parameters.extra.clone(),
            notes: Vec::new(),
            executor,
        }
    }

    fn as_step(&self) -> StepModel<'_> {
        StepModel { name: &self.name, metadata: &self.metadata, signature: &self.signature }
    }

    /// The metadata as of now.
    pub fn metadata(&self) -> Arc<ModelMetadata> {
        let batching = self.executor.batching();
        if batching == self.metadata.batching {
            return Arc::clone(&self.metadata);
        }
        // Batching is decided once and revoked at most once, so there is one other value.
        let not_cached = self.executor.not_cached(self.cache);
        let after = || Arc::new(ModelMetadata { batching, not_cached, ..(*self.metadata).clone() });
        Arc::clone(self.metadata_after_revocation.get_or_init(after))
    }

    /// Whether its requests run in one batch, and why; `None` for a pipeline and before the first session.
    pub fn batching(&self) -> Option<Batching> {
        self.executor.batching()
    }

    /// Why its results are not cached.
    pub fn not_cached(&self) -> Option<NotCached> {
        self.executor.not_cached(self.cache)
    }

    /// The input that accepts encoded images, and its preprocessing.
    pub fn image_input(&self) -> Result<(&TensorMetadata, &ImageSpec), Error> {
        self.signature.image_input().ok_or_else(|| {
            let name = &self.name;
            Error::InvalidInput(match image_settings_hint(name, &self.signature.inputs) {
                Some(remedy) => format!("{name} does not accept an image yet. {remedy}."),
                None => format!("{name} does not accept an image; send tensors to POST /v2/models/{name}/infer."),
            })
        })
    }

    /// The only input that a request must contain.
    pub fn only_input(&self) -> Result<&TensorMetadata, Error> {
        let inputs = &self.signature.inputs;
        only_required_input(inputs).ok_or_else(|| {
            let name = &self.name;
            Error::InvalidInput(format!(
                "{name} does not accept a single array; send tensors to POST /v2/models/{name}/infer."
            ))
        })
    }

    /// Its steps, if it is a pipeline.
    pub fn steps(&self) -> Option<&PipelineSteps> {
        match &self.executor {
            Executor::Pipeline(steps) => Some(steps),
            Executor::Sessions(_) => None,
        }
    }

    /// Runs the model on these inputs when a session is idle. Fails for a pipeline, whose steps run one by one.
    pub async fn run(&self, mut inputs: Vec<Tensor>, priority: Priority) -> Result<RunOutput, Error> {
        if inputs.len() > 1 {
            // Requests can share a batch only if their inputs are in the same order.
            let index = |tensor: &Tensor| self.signature.inputs.iter().position(|input| input.name == tensor.name);
            inputs.sort_by_key(index);
        }
        match &self.executor {
            Executor::Sessions(pool) if has_optional_input(&inputs, &self.signature.inputs) => {
                Ok(pool.run_unbatched(inputs, priority).await?)
            }
            Executor::Sessions(pool) => Ok(pool.run(inputs, priority).await?),
            Executor::Pipeline(_) => Err(Error::Internal),
        }
    }

    /// Stops its sessions. A pipeline has none of its own.
    pub async fn stop(&self) {
        if let Executor::Sessions(pool) = &self.executor {
            pool.stop().await;
        }
    }

    /// Resolves when its sessions have ended, which they do once the last reference to the model is dropped.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let ended = match &self.executor {
            Executor::Sessions(pool) => Some(pool.stopped()),
            Executor::Pipeline(_) => None,
        };
        async move {
            if let Some(ended) = ended {
                ended.await;
            }
        }
    }

    /// The state of its sessions, or of its steps' sessions.
    pub fn state(&self) -> PoolState {
        match &self.executor {
            Executor::Sessions(pool) => pool.state(),
            Executor::Pipeline(steps) => steps.state(),
        }
    }

    /// Its public description, with its sessions in this state.
    pub fn describe(&self, state: PoolState) -> ModelDescription {
        let signature = &self.signature;
        let batching = self.executor.batching();
        // Rows of a model that has shown dependent rows cannot be cached one by one.
        let are_independent =
            batching.as_ref().is_none_or(|batching| batching.rows == RowDependence::IndependentBySettings);
        ModelDescription {
            title: self.texts.title.clone().unwrap_or_else(|| self.name.clone()),
            description: self.texts.description.clone(),
            notice: self.texts.notice.clone(),
            digest: self.digest.clone(),
            inputs: signature.inputs.clone(),
            outputs: signature.outputs.clone(),
            left_out: signature.skipped_outputs.clone(),
            notes: self.notes.clone(),
            max_batch_size: signature.max_batch_size,
            independent_rows: signature.independent_rows && are_independent,
            // Only where an image alone is a complete request.
            image: signature.only_image().map(ImageSpec::describe),
            pipeline: self.steps().map(|steps| steps.pipeline.clone()),
            platform: self.metadata.platform,
            batching,
            not_cached: self.not_cached(),
            wrong_before_ms: self.executor.wrong_before_ms(),
            ..describe_state(&self.name, &self.version, state)
        }
    }
}

impl Executor {
    fn platform(&self) -> Platform {
        match self {
            Self::Sessions(_) => Platform::OnnxRuntime,
            Self::Pipeline(_) => Platform::Ensemble,
        }
    }

    /// `None` for a pipeline, since the model of each step decides.
    fn batching(&self) -> Option<Batching> {
        match self {
            Self::Sessions(pool) => pool.batching(),
            Self::Pipeline(_) => None,
        }
    }

    /// With `cache` of the model's settings. Results of a pipeline are cached only if those of all its steps are.
    fn not_cached(&self, cache: Option<bool>) -> Option<NotCached> {
        if cache == Some(false) {
            return Some(NotCached::Settings);
        }
        match self {
            Self::Sessions(pool) => (cache.is_none() && pool.is_nondeterministic()).then_some(NotCached::Random),
            Self::Pipeline(steps) => steps.models.iter().find_map(|model| model.not_cached()),
        }
    }

    /// The latest of its steps for a pipeline.
    fn wrong_before_ms(&self) -> Option<u64> {
        match self {
            Self::Sessions(pool) => pool.invalid_before_ms(),
            Self::Pipeline(steps) => steps.models.iter().filter_map(|model| model.executor.wrong_before_ms()).max(),
        }
    }
}

impl PipelineSteps {
    /// The worst state of all steps.
    fn state(&self) -> PoolState {
        let mut devices: Vec<Device> = Vec::new();
        let mut is_starting = false;
        for (step, model) in self.pipeline.steps.iter().zip(&self.models) {
            match model.state() {
                PoolState::Ready(session) => devices.push(session.device.clone()),
                PoolState::Starting => is_starting = true,
                PoolState::Unavailable(error) => {
                    return PoolState::Unavailable(StartError::Model(format!("step {:?}: {error}", step.name)));
                }
            }
        }
        match devices.split_first() {
            Some((first, others)) if !is_starting => PoolState::Ready(Arc::new(SessionInfo {
                inputs: Vec::new(),
                outputs: Vec::new(),
                left_out: Vec::new(),
                device: combined_device(first, others),
                facts: GraphFacts::default(),
            })),
            _ => PoolState::Starting,
        }
    }
}
