use std::sync::Arc;

use contract::ModelDescription;
use open_inference::{ModelMetadata, ModelState, Tensor, TensorMetadata};

use crate::error::Error;
use crate::image_input::ImageSpec;
use crate::model_settings::{Extra, ModelSettings};
use crate::pool::{Pool, Ran, State, Urgency};
use crate::repository::ModelFiles;
use crate::session::Hello;
use crate::signature::Signature;

/// A model whose files have been read, and the sessions that run it.
pub struct Model {
    /// The name in routes.
    pub name: String,
    /// The version that is served.
    pub version: String,
    /// Of graph, external data and settings: `sha256:<hex>`.
    pub digest: String,
    /// Words for people.
    pub extra: Extra,
    /// What goes in and what comes out.
    pub signature: Signature,
    /// The same in the protocol's words.
    pub metadata: Arc<ModelMetadata>,
    pool: Arc<Pool>,
}

impl Model {
    /// A model whose first session has said hello. The error names the setting that contradicts the graph.
    pub fn new(
        files: &ModelFiles,
        settings: &ModelSettings,
        digest: String,
        graph: &Hello,
        pool: Arc<Pool>,
    ) -> Result<Self, String> {
        let signature = Signature::agree(settings, graph)?;
        Ok(Self::with(files, settings, digest, signature, pool))
    }

    /// A model whose first session has yet to say hello: what its files alone say of it. An answer that was remembered
    /// is found by the digest, and shown with the notice, while the model itself is still being started.
    pub fn announced(files: &ModelFiles, settings: &ModelSettings, digest: &str, pool: Arc<Pool>) -> Self {
        Self::with(files, settings, digest.to_owned(), Signature::declared(settings), pool)
    }

    fn with(
        files: &ModelFiles,
        settings: &ModelSettings,
        digest: String,
        signature: Signature,
        pool: Arc<Pool>,
    ) -> Self {
        let (name, version) = (files.name.clone(), files.version.clone());
        let metadata = ModelMetadata {
            name: name.clone(),
            version: version.clone(),
            inputs: signature.inputs.clone(),
            outputs: signature.outputs.clone(),
            max_batch_size: signature.max_batch_size,
            platform: open_inference::Platform::default(),
        };
        let metadata = Arc::new(metadata);
        Self { name, version, digest, signature, metadata, extra: settings.parameters.extra.clone(), pool }
    }

    /// The input that pictures can be sent for, and how they become it.
    pub fn image(&self) -> Result<(&TensorMetadata, &ImageSpec), Error> {
        self.signature.image().ok_or_else(|| Error::Unfit(format!("{} reads no pictures", self.name)))
    }

    /// The input of a model that has one.
    pub fn only_input(&self) -> Result<&TensorMetadata, Error> {
        match self.signature.inputs.as_slice() {
            [input] => Ok(input),
            inputs => Err(Error::Unfit(format!("{} has {} inputs, and only one was sent", self.name, inputs.len()))),
        }
    }

    /// Names of the first output's classes.
    pub fn labels(&self) -> &[String] {
        self.signature.outputs.first().map_or(&[], |output| &output.parameters.labels)
    }

    /// Runs the model on these inputs, as soon as a session is idle.
    pub async fn run(&self, mut inputs: Vec<Tensor>, urgency: Urgency) -> Result<Ran, Error> {
        if inputs.len() > 1 {
            // Requests go together when their inputs stand in the same order, and callers have an order each.
            let place = |tensor: &Tensor| self.signature.inputs.iter().position(|input| input.name == tensor.name);
            inputs.sort_by_key(place);
        }
        Ok(self.pool.run(inputs, urgency).await?)
    }

    /// Ends its sessions.
    pub async fn stop(&self) {
        self.pool.stop().await;
    }

    /// Resolves when its sessions have ended, as they do when nobody holds the model any more.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        self.pool.ended()
    }

    /// What its sessions can do now.
    pub fn state(&self) -> State {
        self.pool.state()
    }

    /// What people and programs may know of it, with its sessions in this state.
    pub fn describe(&self, state: State) -> ModelDescription {
        let signature = &self.signature;
        ModelDescription {
            title: self.extra.title.clone().unwrap_or_else(|| self.name.clone()),
            description: self.extra.description.clone(),
            notice: self.extra.notice.clone(),
            digest: self.digest.clone(),
            inputs: signature.inputs.clone(),
            outputs: signature.outputs.clone(),
            left_out: signature.left_out.clone(),
            max_batch_size: signature.max_batch_size,
            independent_rows: signature.independent_rows,
            // A picture alone is no question to a model that wants more than that.
            image: signature.image().filter(|_| signature.inputs.len() == 1).map(|(_, spec)| spec.describe()),
            ..describe_state(&self.name, &self.version, state)
        }
    }
}

/// What there is to say of a model whose files have not been read.
pub fn describe_state(name: &str, version: &str, state: State) -> ModelDescription {
    let (state, reason, device) = match state {
        State::Ready(hello) => (ModelState::Ready, None, Some(hello.device.clone())),
        State::Starting => (ModelState::Loading, Some("a session is being started".to_owned()), None),
        State::Unavailable(error) => (ModelState::Unavailable, Some(error.to_string()), None),
    };
    ModelDescription { device, ..ModelDescription::unread(name, version, state, reason) }
}
