use std::future::Future;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use crate::check::shown;
use crate::{Batching, Error, ModelMetadata, ModelStatistics, Statistics, Tensor};

/// The server's name in its metadata.
pub const SERVER_NAME: &str = "mlserve";

/// The server's version in its metadata.
pub const SERVER_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The protocol's extensions that are served.
pub const EXTENSIONS: [&str; 6] =
    ["binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters", "statistics"];

/// What a service does for the transports, which do all the reading and writing.
pub trait InferenceServer: Clone + Send + Sync + 'static {
    /// Whether traffic may come.
    fn is_ready(&self) -> bool;

    /// Every model version that can be asked, or could be a moment ago.
    fn models(&self) -> Vec<Arc<ModelMetadata>>;

    /// A model's version; the default one where none is named. An error when there is none, or when nothing is known of it
    /// yet. It is asked for every request, so it should be at hand and not be made.
    fn model(&self, name: &str, version: Option<&str>) -> Result<Arc<ModelMetadata>, Error>;

    /// Every version of this model that is served.
    fn versions(&self, name: &str) -> Vec<String>;

    /// Whether it can be asked now; an error when there is none.
    fn is_model_ready(&self, name: &str, version: Option<&str>) -> Result<bool, Error>;

    /// Whether results of this model are cached, as its configuration tells clients. A server that has no cache says no.
    fn caches_results(&self, _model: &ModelMetadata) -> bool {
        false
    }

    /// The one verb. The request has been held against the model's signature. Dropping the future gives the request up.
    fn infer(&self, request: InferRequest) -> impl Future<Output = Result<Inference, Error>> + Send;

    /// What was counted of every model since the service began. The server adds to it; the transports only read it.
    fn statistics(&self) -> &Statistics;

    /// Every version there is in the repository, served or not.
    fn repository_index(&self) -> impl Future<Output = Result<Vec<ModelIndex>, Error>> + Send;

    /// Loads a model, or what has changed of it; comes back when it can be asked. `headers` are the request's headers or gRPC
    /// metadata: a server may require a secret in them.
    fn load(&self, model: &str, headers: &HeaderMap) -> impl Future<Output = Result<(), Error>> + Send;

    /// Takes a model out of service; requests that have begun are answered.
    fn unload(&self, model: &str, headers: &HeaderMap) -> impl Future<Output = Result<(), Error>> + Send;
}

/// What was counted of the models there are: of one, of one version of it, or of all. One that was never asked has zeros.
pub fn report_statistics<S: InferenceServer>(
    server: &S,
    name: Option<&str>,
    version: Option<&str>,
) -> Result<Vec<ModelStatistics>, Error> {
    if let Some(name) = name {
        server.model(name, version)?;
    }
    let mut models = server.models();
    models.retain(|model| {
        name.is_none_or(|name| model.name == name) && version.is_none_or(|version| model.version == version)
    });
    let mut counted = server.statistics().report(name, version);
    let of = |model: Arc<ModelMetadata>| {
        let found = counted.iter().position(|one| one.name == model.name && one.version == model.version);
        let (name, version) = (model.name.clone(), model.version.clone());
        let none = ModelStatistics { name, version, ..ModelStatistics::default() };
        found.map_or(none, |index| counted.swap_remove(index))
    };
    Ok(models.into_iter().map(of).collect())
}

/// Refuses a load that brings files or a configuration: a model is what is in its folder, and whoever may reach the port
/// must not be able to put another graph there.
pub(crate) fn check_load<'a>(mut parameters: impl Iterator<Item = &'a String>) -> Result<(), Error> {
    match parameters.find(|name| *name == "config" || name.starts_with("file:")) {
        None => Ok(()),
        Some(name) => {
            let words = format!("a load with {} is not served: put it into the model's folder", shown(name));
            Err(Error::new(StatusCode::NOT_IMPLEMENTED, words))
        }
    }
}

/// A question: ready tensors for a model.
#[derive(Clone, Debug)]
pub struct InferRequest {
    /// The model's name.
    pub model: String,
    /// `None` asks the default version.
    pub version: Option<String>,
    /// One for each of the model's inputs, in any order. `BYTES` for an input that
    /// [takes images](crate::TensorMetadata::accepts_images) is one encoded picture each.
    pub inputs: Vec<Tensor>,
    /// The request's headers or gRPC metadata: a server may be steered by them.
    pub headers: HeaderMap,
}

/// An answer: every output of the model.
#[derive(Clone, Debug)]
pub struct Inference {
    /// The model that answered.
    pub model: String,
    /// The version that answered.
    pub version: String,
    /// In the graph's order.
    pub outputs: Vec<Tensor>,
    /// Who answered, and what it took.
    pub provenance: Provenance,
    /// To be sent as headers or as gRPC metadata.
    pub headers: HeaderMap,
}

/// Who answered, and what it took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// `sha256:<hex>` over graph, external data and settings of the model that really answered.
    pub model_digest: String,
    /// `"cpu"` or `"cuda"`: what really ran.
    pub device: String,
    /// Where the time went.
    pub timing_ms: Timing,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Reading pictures or text into tensors.
    pub decode: f64,
    /// Waiting for a session.
    pub queue: f64,
    /// In the session, the way to its process included.
    pub infer: f64,
}

/// One version in the repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIndex {
    /// The model's name.
    pub name: String,
    /// The version.
    pub version: String,
    /// How it does.
    pub state: ModelState,
    /// Why it is not ready, or why a newer one on disk is not served; empty where there is nothing to say.
    pub reason: String,
    /// Whether rows of different requests run in one batch, and why. Absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<Batching>,
}

/// States of the repository index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ModelState {
    /// Being read, started or warmed up.
    Loading,
    /// Warm: a request is answered.
    Ready,
    /// Going: requests that have begun are answered.
    Unloading,
    /// Cannot be asked; the reason says why.
    Unavailable,
}
