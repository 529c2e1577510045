//! Client-side batching of requests to `model_api`, behind a congestion window per model.
//!
//! An HTTP call costs both services more than the inference of a small model. So while the concurrent calls to a model are in
//! flight, new requests are queued. They are sent as one batch as soon as a call returns. A request without others in flight is sent
//! immediately and alone. A full batch is sent immediately as well. Its size is limited by the measured time per row, so requests to
//! a slow model are not batched. This queue stays short: `model_api` owns the queue of a model and its limit.
//!
//! Requests are batched only with requests from connections of the same core ([`service::runtime`]). Waking the thread of another core
//! costs more than half of what batching saves.
//!
//! Only models with independent rows are batched, and batching does not change results: if a batch is rejected or fails, each of its
//! requests is sent again alone. So each caller gets its own result, or an error that matches its own request.
//!
//! A model that reports overload is sent only what it accepts ([`congestion_window`](super::congestion_window)). Requests beyond
//! that are rejected here, at a fraction of the cost. Under heavy overload, the difference is what the results themselves need.

use contract::ModelDescription;
use open_inference::{Inference, Tensor, has_optional_input};
use service::request_id::current_request_id;
use service::runtime;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Span;

use super::batch::{PendingRequest, batchable_rows};
use super::batch_sender::BatchSender;
use super::congestion_window::{CallOutcome, WindowFull};
use super::model_client::{CallOptions, ModelClient};
use super::targets::{Target, TargetKey, Targets, calls_per_core};
use crate::error::Error;

/// Rows of a batch if the model declares no maximum.
const DEFAULT_MAX_ROWS: usize = 32;

/// Batches requests. Clones share the requests in flight.
#[derive(Clone)]
pub struct RequestBatcher {
    client: ModelClient,
    targets: Targets,
}

/// Counts a request as in flight to its target until it is dropped.
struct AdmissionPermit<'a> {
    targets: &'a Targets,
    key: &'a TargetKey,
    admitted_at: Instant,
    outcome: CallOutcome,
}

impl RequestBatcher {
    /// Sends requests through `client`.
    pub fn new(client: ModelClient) -> Self {
        Self { client, targets: Targets::default() }
    }

    /// Runs a model on `inputs`; its default version if `version` is `None`. Dropping the future cancels the request.
    pub async fn infer(
        &self,
        model: &ModelDescription,
        version: Option<&str>,
        in_background: bool,
        inputs: Vec<Tensor>,
    ) -> Result<Inference, Error> {
        let key = TargetKey { model: model.name.clone(), version: version.map(str::to_owned), in_background };
        let mut admission = self.admit(&key)?;
        let permit = self.client.permit(in_background)?;
        let may_batch = model.independent_rows && !has_optional_input(&inputs, &model.inputs);
        let result = if let Some(rows) = batchable_rows(&inputs).filter(|_| may_batch) {
            self.infer_batched(model, &key, inputs, rows, permit).await
        } else {
            let timeout = self.client.timeout();
            let options =
                CallOptions { model: &model.name, version, request_id: current_request_id(), timeout, in_background };
            let rows = inputs.first().and_then(Tensor::rows).unwrap_or(1);
            let result = self.client.infer(options, inputs).await;
            self.targets.record_cost(&key, &result, rows);
            result
        };
        admission.outcome = CallOutcome::of(&result, admission.admitted_at.elapsed());
        result
    }

    /// Admits one request; an error if the congestion window of its model is full.
    fn admit<'a>(&'a self, key: &'a TargetKey) -> Result<AdmissionPermit<'a>, Error> {
        let mut targets = self.targets.lock();
        // The key is cloned only for the first request to a target.
        if !targets.contains_key(key) {
            targets.insert(key.clone(), Target::new());
        }
        if let Some(target) = targets.get_mut(key) {
            target.window.admit(target.initial_window()).map_err(|full| match full {
                WindowFull::Initial => Error::Busy,
                WindowFull::Overloaded { retry_after_s } => {
                    Error::Overloaded { model: key.model.clone(), retry_after_s }
                }
            })?;
        }
        let (admitted_at, outcome) = (Instant::now(), CallOutcome::Other);
        Ok(AdmissionPermit { targets: &self.targets, key, admitted_at, outcome })
    }

    async fn infer_batched(
        &self,
        model: &ModelDescription,
        key: &TargetKey,
        inputs: Vec<Tensor>,
        rows: usize,
        permit: OwnedSemaphorePermit,
    ) -> Result<Inference, Error> {
        let (reply, result) = oneshot::channel();
        let (request_id, span) = (current_request_id(), Span::current());
        let deadline = Instant::now() + self.client.timeout();
        let request = PendingRequest { inputs, rows, deadline, request_id, span, reply, _permit: permit };
        let max_rows = if model.max_batch_size > 0 { model.max_batch_size as usize } else { DEFAULT_MAX_ROWS };
        let core = runtime::current_core();
        if self.enqueue(key, core, max_rows, request) {
            // A task of its own: it sends batches of other callers after the first caller has its result.
            tokio::spawn(self.sender(key, core, max_rows).run());
        }
        result.await.unwrap_or(Err(Error::Internal))
    }

    fn sender(&self, key: &TargetKey, core: usize, max_rows: usize) -> BatchSender {
        let (client, targets, key) = (self.client.clone(), self.targets.clone(), key.clone());
        BatchSender { client, targets, key, core, max_rows, is_released: false }
    }

    /// Queues a request. Returns whether a new call must be started for it; that call counts as in flight from now on.
    fn enqueue(&self, key: &TargetKey, core: usize, max_rows: usize, request: PendingRequest) -> bool {
        let mut targets = self.targets.lock();
        let Some(target) = targets.get_mut(key) else { return false };
        let batch_rows = target.batch_rows(max_rows);
        let queue = &mut target.queues[core];
        queue.pending.push(request);
        let starts_call = queue.calls_in_flight < calls_per_core() || queue.is_full(batch_rows);
        queue.calls_in_flight += usize::from(starts_call);
        starts_call
    }
}

impl Drop for AdmissionPermit<'_> {
    fn drop(&mut self) {
        if let Some(target) = self.targets.lock().get_mut(self.key) {
            target.window.release(self.outcome);
        }
    }
}

#[cfg(test)]
mod tests;
