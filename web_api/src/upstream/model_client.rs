//! HTTP client of `model_api`: inference, image preview, and operations on the model repository.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use contract::ModelList;
use http::{HeaderValue, header};
use open_inference::{Inference, ModelIndex, ModelState, Tensor, client};
use reqwest::Method;
use service::memory_budget::{MemoryBudget, Reservation};
use service::request_id::current_request_id;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::replicas::{Payload, Replicas};
use super::response::{decode_json, invalid_response, read_body, read_reserved_body};
use crate::blocking_pool::BlockingPool;
use crate::cache_control::{BACKGROUND_PRIORITY, PRIORITY_HEADER};
use crate::error::Error;
use crate::settings::Settings;

/// Timeout of a list of models, which needs no inference.
const LIST_TIMEOUT: Duration = Duration::from_secs(2);

/// Timeout of a load or unload: reading and warming up a large model takes minutes.
const LOAD_TIMEOUT: Duration = Duration::from_mins(10);

/// Background requests share all permits, and have further permits of their own: `MAX_CONCURRENT_REQUESTS` divided by this.
const BACKGROUND_DIVISOR: usize = 16;

/// Calls `model_api`. Clones share connections and permits.
#[derive(Clone)]
pub struct ModelClient {
    replicas: Replicas,
    permits: Arc<Semaphore>,
    /// Used by background requests while interactive requests hold all permits: interactive load alone must not stop jobs.
    background_permits: Arc<Semaphore>,
    request_timeout: Duration,
    blocking_pool: BlockingPool,
    /// Memory of requests and responses in transit.
    budget: MemoryBudget,
}

/// Options of an inference request.
#[derive(Clone, Debug)]
pub struct CallOptions<'a> {
    /// The model.
    pub model: &'a str,
    /// `None` for its default version.
    pub version: Option<&'a str>,
    /// Identifies the request in the logs of both services.
    pub request_id: Option<HeaderValue>,
    /// Time until the response must be complete.
    pub timeout: Duration,
    /// Whether interactive requests take precedence.
    pub in_background: bool,
}

impl ModelClient {
    /// Connects on first use.
    pub fn new(settings: &Settings, blocking_pool: BlockingPool, budget: MemoryBudget) -> reqwest::Result<Self> {
        Ok(Self {
            replicas: Replicas::new(settings)?,
            permits: Arc::new(Semaphore::new(settings.max_concurrent_requests)),
            background_permits: Arc::new(Semaphore::new(settings.max_concurrent_requests.div_ceil(BACKGROUND_DIVISOR))),
            request_timeout: settings.request_timeout,
            blocking_pool,
            budget,
        })
    }

    /// Lists the models.
    pub async fn models(&self) -> Result<ModelList, Error> {
        let response = self
            .replicas
            .send_with_failover(Method::GET, &["models"], None, current_request_id(), LIST_TIMEOUT)
            .await?;
        decode_json(&read_body(response).await?)
    }

    /// A permit for one request to `model_api`: one of `MAX_CONCURRENT_REQUESTS`. [`Error::Busy`] if none is free.
    pub fn permit(&self, in_background: bool) -> Result<OwnedSemaphorePermit, Error> {
        let acquire = |permits: &Arc<Semaphore>| Arc::clone(permits).try_acquire_owned().map_err(|_| Error::Busy);
        acquire(&self.permits).or_else(|busy| if in_background { acquire(&self.background_permits) } else { Err(busy) })
    }

    /// Reserves memory for a request or response in transit.
    pub fn reserve(&self, bytes: usize) -> Result<Reservation, Error> {
        let mut memory = self.budget.shared_reservation();
        memory.reserve(bytes)?;
        Ok(memory)
    }

    /// Timeout of an inference request.
    pub fn timeout(&self) -> Duration {
        self.request_timeout
    }

    /// Runs a model on `inputs`. The caller holds a [permit](Self::permit).
    pub async fn infer(&self, options: CallOptions<'_>, inputs: Vec<Tensor>) -> Result<Inference, Error> {
        let CallOptions { model, version, request_id, timeout, in_background } = options;
        let bytes = inputs.iter().map(|tensor| tensor.data.len()).sum();
        // Covers the encoded request, and later the response.
        let mut memory = self.reserve(bytes)?;
        let (mut headers, bytes) = self.blocking_pool.run(bytes, move || client::encode_request(&inputs)).await?;
        if in_background {
            headers.insert(PRIORITY_HEADER, HeaderValue::from_static(BACKGROUND_PRIORITY));
        }
        let path: Vec<&str> = match version {
            Some(version) => vec!["v2", "models", model, "versions", version, "infer"],
            None => vec!["v2", "models", model, "infer"],
        };
        let payload = Payload { headers, bytes };
        let sent = self.replicas.send_with_failover(Method::POST, &path, Some(payload), request_id, timeout).await;
        let mut response = sent.map_err(|error| generic_overload(error, model))?;
        let headers = std::mem::take(response.headers_mut());
        let body = read_reserved_body(response, &mut memory).await?;
        client::decode_response(&headers, body).map_err(|error| invalid_response(&error))
    }

    /// The image after the preprocessing of `model`, as a PNG.
    pub async fn preview(&self, model: &str, image: Bytes) -> Result<Bytes, Error> {
        let _permit = self.permit(false)?;
        // model_api detects the format from the content.
        let octets = (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let payload = Payload { headers: [octets].into_iter().collect(), bytes: image };
        let (path, timeout) = (["input", model], self.request_timeout);
        let response =
            self.replicas.send_with_failover(Method::POST, &path, Some(payload), current_request_id(), timeout).await?;
        read_body(response).await
    }

    /// Lists all versions in the model repository. If replicas differ, reports the worst state.
    pub async fn index(&self) -> Result<Vec<ModelIndex>, Error> {
        let lists = self.replicas.broadcast(&["v2", "repository", "index"], LIST_TIMEOUT).await;
        let mut merged: Vec<ModelIndex> = Vec::new();
        let mut unreachable = None;
        for list in lists {
            match list.and_then(|list| decode_json::<Vec<ModelIndex>>(&list)) {
                Ok(list) => list.into_iter().for_each(|entry| merge(&mut merged, entry)),
                Err(error) => unreachable = Some(error),
            }
        }
        merged.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        match unreachable {
            Some(error) if merged.is_empty() => Err(error),
            _ => Ok(merged),
        }
    }

    /// Loads `model` on all replicas.
    pub async fn load(&self, model: &str) -> Result<(), Error> {
        require_all_ok(self.replicas.broadcast(&["v2", "repository", "models", model, "load"], LOAD_TIMEOUT).await)
    }

    /// Unloads `model` on all replicas.
    pub async fn unload(&self, model: &str) -> Result<(), Error> {
        require_all_ok(self.replicas.broadcast(&["v2", "repository", "models", model, "unload"], LOAD_TIMEOUT).await)
    }
}

/// Fails with the error of the first replica that failed. With several replicas, the error names it.
fn require_all_ok(responses: Vec<Result<Bytes, Error>>) -> Result<(), Error> {
    let replicas = responses.len();
    let Some((number, reason)) =
        responses.into_iter().enumerate().find_map(|(number, response)| response.err().map(|error| (number, error)))
    else {
        return Ok(());
    };
    if replicas == 1 {
        return Err(reason);
    }
    Err(Error::ReplicaFailed { failed: number + 1, replicas, reason: Box::new(reason) })
}

/// Adds `entry` to the merged list, or replaces the same version in a better state.
fn merge(merged: &mut Vec<ModelIndex>, entry: ModelIndex) {
    let health = |entry: &ModelIndex| match entry.state {
        ModelState::Unavailable => 0,
        ModelState::Unloading => 1,
        ModelState::Loading => 2,
        ModelState::Ready => 3 + u8::from(entry.reason.is_empty()),
    };
    match merged.iter_mut().find(|other| other.name == entry.name && other.version == entry.version) {
        Some(other) if health(&entry) < health(other) => *other = entry,
        Some(_) => {}
        None => merged.push(entry),
    }
}

/// Replaces an overload error of `model_api` by one of this service. The message of `model_api` describes its queue at one moment, but
/// this error goes to other callers as well.
fn generic_overload(error: Error, model: &str) -> Error {
    match error {
        Error::Model(open_inference::Error { is_overload: true, retry_after_s, .. }) => {
            Error::Overloaded { model: model.to_owned(), retry_after_s }
        }
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn entry(version: &str, state: ModelState, reason: &str) -> ModelIndex {
        let (name, version, reason) = ("m".to_owned(), version.to_owned(), reason.to_owned());
        ModelIndex { name, version, state, reason, batching: None }
    }

    #[test]
    fn the_merged_index_has_the_worst_state_of_each_version() {
        let mut merged = Vec::new();
        let unavailable = entry("1", ModelState::Unavailable, "is no model");
        for other in [entry("1", ModelState::Ready, ""), unavailable.clone(), entry("2", ModelState::Ready, "")] {
            merge(&mut merged, other.clone());
            merge(&mut merged, entry("1", ModelState::Ready, ""));
        }
        assert_eq!(merged, [unavailable, entry("2", ModelState::Ready, "")]);
    }

    #[test]
    fn the_error_names_the_replica_that_failed() {
        let broken = || Err(Error::Model(open_inference::Error::unprocessable("is no model.")));
        assert_eq!(require_all_ok(vec![broken()]).unwrap_err().to_string(), "is no model.");
        let error = require_all_ok(vec![Ok(Bytes::new()), broken()]).unwrap_err();
        assert!(error.to_string().starts_with("Replica 2 of 2 failed: is no model."), "{error}");
        assert_eq!(error.status().0, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(require_all_ok(vec![Ok(Bytes::new())]).is_ok());
    }
}
