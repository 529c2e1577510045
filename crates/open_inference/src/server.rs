//! The trait that a service implements, and server-wide operations on top of it.

use std::future::Future;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use crate::error::Error;
use crate::statistics::{ModelStatistics, Statistics};
use crate::truncate::quoted;
use crate::types::{InferRequest, Inference, ModelIndex, ModelMetadata};

/// Name in the server metadata.
pub const SERVER_NAME: &str = "mlserve";

/// Version in the server metadata.
pub const SERVER_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Supported extensions of the protocol.
pub const EXTENSIONS: [&str; 6] =
    ["binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters", "statistics"];

/// Operations that a service implements. The transports do all parsing and encoding.
pub trait InferenceServer: Clone + Send + Sync + 'static {
    /// Whether the server accepts traffic.
    fn is_ready(&self) -> bool;

    /// All model versions that are served, or were served a moment ago.
    fn models(&self) -> Vec<Arc<ModelMetadata>>;

    /// Finds a version of a model, by default the current one. An error where there is none, or where its metadata is
    /// not yet known. Called for every request, so it should be a lookup.
    fn model(&self, name: &str, version: Option<&str>) -> Result<Arc<ModelMetadata>, Error>;

    /// All served versions of a model.
    fn versions(&self, name: &str) -> Vec<String>;

    /// Whether a model version is ready; an error where there is none.
    fn is_model_ready(&self, name: &str, version: Option<&str>) -> Result<bool, Error>;

    /// Whether results of this model are cached, for the model's configuration. `false` for a server without a cache.
    fn caches_results(&self, _model: &ModelMetadata) -> bool {
        false
    }

    /// Runs an inference. The request is validated against the model's signature. Dropping the future cancels it.
    fn infer(&self, request: InferRequest) -> impl Future<Output = Result<Inference, Error>> + Send;

    /// Statistics of every model since the start of the service. The server records them; the transports only read
    /// them.
    fn statistics(&self) -> &Statistics;

    /// Lists every version in the repository, served or not.
    fn repository_index(&self) -> impl Future<Output = Result<Vec<ModelIndex>, Error>> + Send;

    /// Loads or reloads a model, and returns when it is ready. `headers` are the headers or gRPC metadata of the
    /// request; a server may require a secret in them.
    fn load(&self, model: &str, headers: &HeaderMap) -> impl Future<Output = Result<(), Error>> + Send;

    /// Unloads a model. Requests in flight complete.
    fn unload(&self, model: &str, headers: &HeaderMap) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Statistics of all models, of one model, or of one version. Models without requests have zeros.
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
    let mut reports = server.statistics().report(name, version);
    let report = |model: Arc<ModelMetadata>| {
        let index = reports.iter().position(|report| report.name == model.name && report.version == model.version);
        let (name, version) = (model.name.clone(), model.version.clone());
        let zeros = ModelStatistics { name, version, ..ModelStatistics::default() };
        index.map_or(zeros, |index| reports.swap_remove(index))
    };
    Ok(models.into_iter().map(report).collect())
}

/// Rejects a load that brings files or a configuration. A model is loaded from its folder alone; otherwise any client
/// that reaches the port could replace its graph.
pub(crate) fn validate_load_parameters<'a>(mut parameters: impl Iterator<Item = &'a String>) -> Result<(), Error> {
    match parameters.find(|name| *name == "config" || name.starts_with("file:")) {
        None => Ok(()),
        Some(name) => {
            let message = format!("a load with {} is not supported: put it into the model's folder", quoted(name));
            Err(Error::new(StatusCode::NOT_IMPLEMENTED, message))
        }
    }
}
