use std::sync::Arc;

use open_inference::{Statistics, Tensor};
use service::body_limits::BodyReader;
use service::readiness::Readiness;
use service::request_guard::RequestGuard;

use crate::blocking_pool::BlockingPool;
use crate::error::Error;
use crate::memory::{Budget, Reservation, bytes_of};
use crate::metrics::Metrics;
use crate::preprocessing::ImageLimits;
use crate::registry::ModelRegistry;
use crate::repository::RepositoryAccess;

/// State that all handlers share.
pub struct AppState {
    /// All models that are served or are to be served.
    pub registry: Arc<ModelRegistry>,
    /// Blocking pool that decodes images and JSON arrays.
    pub decoder: BlockingPool,
    /// Limits of one image.
    pub image_limits: ImageLimits,
    /// Byte budget of the inputs of all requests that wait or run.
    pub input_budget: Budget,
    /// Reads request bodies within their limits.
    pub body_reader: BodyReader,
    /// Readiness latch: the service is not ready while a hold exists.
    pub readiness: Readiness,
    /// Decides which requests reach their routes.
    pub guard: RequestGuard,
    /// Decides which requests may load and unload models.
    pub repository_access: RepositoryAccess,
    /// Prometheus metrics.
    pub metrics: Metrics,
    /// Statistics of the Open Inference Protocol.
    pub statistics: Statistics,
}

impl AppState {
    /// Reserves memory for inputs until the last copy of them is dropped.
    pub fn reserve_inputs(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Error> {
        Ok(self.reserve_input_bytes(bytes_of(&inputs))?.attach_all(inputs))
    }

    /// Reserves memory for inputs of this size in bytes.
    pub fn reserve_input_bytes(&self, bytes: usize) -> Result<Reservation, Error> {
        self.input_budget.try_reserve(bytes).ok_or_else(|| Error::InputBudgetExceeded(self.input_budget.bytes()))
    }
}
