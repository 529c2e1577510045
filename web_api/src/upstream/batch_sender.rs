//! Task that sends pending requests of one core to one target, one batch after the other.

use std::pin::pin;

use futures_util::future::{Either, join_all, select};
use http::StatusCode;
use open_inference::Inference;
use tokio::time::Instant;
use tracing::Instrument;

use super::batch::{PendingRequest, can_batch_with, concat_rows, send_replies, split_rows};
use super::model_client::{CallOptions, ModelClient};
use super::targets::{TargetKey, Targets, calls_per_core};
use crate::error::Error;

/// Bytes of a batch.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// One of the calls that may be in flight to a target. It counts as in flight from its creation until it is dropped.
pub struct BatchSender {
    pub client: ModelClient,
    pub targets: Targets,
    pub key: TargetKey,
    pub core: usize,
    /// Upper bound of the rows of a batch.
    pub max_rows: usize,
    /// Whether it no longer counts as in flight.
    pub is_released: bool,
}

impl BatchSender {
    /// Sends batches until no request is pending.
    pub async fn run(mut self) {
        while let Some(batch) = self.next_batch() {
            self.send_batch(batch).await;
        }
    }

    /// The oldest pending request and those that can be batched with it. Returns `None` if none is pending or enough calls are in
    /// flight. In that case the call is released under the same lock, so that the next request finds it free.
    fn next_batch(&mut self) -> Option<Vec<PendingRequest>> {
        let mut targets = self.targets.lock();
        let target = targets.get_mut(&self.key)?;
        let batch_rows = target.batch_rows(self.max_rows);
        let queue = &mut target.queues[self.core];
        queue.pending.retain(|request| !request.reply.is_closed());
        if queue.pending.is_empty() || (queue.calls_in_flight > calls_per_core() && !queue.is_full(batch_rows)) {
            queue.calls_in_flight -= 1;
            self.is_released = true;
            return None;
        }
        let mut pending = std::mem::take(&mut queue.pending).into_iter();
        let first = pending.next()?;
        let (mut rows, mut bytes) = (first.rows, first.bytes());
        let mut batch = vec![first];
        for other in pending {
            let fits = rows + other.rows <= batch_rows && bytes + other.bytes() <= MAX_BATCH_BYTES;
            if fits && can_batch_with(&batch[0].inputs, &other.inputs) {
                rows += other.rows;
                bytes += other.bytes();
                batch.push(other);
            } else {
                queue.pending.push(other);
            }
        }
        Some(batch)
    }

    /// Sends one call for the batch. If that fails for a reason that may concern only one request, sends each request alone.
    async fn send_batch(&self, mut batch: Vec<PendingRequest>) {
        let Some(result) = self.call(&mut batch).await else { return };
        match result {
            Ok(inference) => match split_rows(inference, &batch) {
                Some(results) => send_replies(batch, results.into_iter().map(Ok)),
                None => self.send_individually(batch).await,
            },
            Err(error) if batch.len() > 1 && may_concern_one_request(&error) => self.send_individually(batch).await,
            Err(error) => {
                let errors = vec![error; batch.len()];
                send_replies(batch, errors.into_iter().map(Err));
            }
        }
    }

    async fn send_individually(&self, batch: Vec<PendingRequest>) {
        let send = async |request: PendingRequest| {
            let mut single = vec![request];
            if let Some(result) = self.call(&mut single).await {
                send_replies(single, [result]);
            }
        };
        join_all(batch.into_iter().map(send)).await;
    }

    /// Sends one call for the batch. If all callers disconnect before the response, the call is cancelled; returns `None` then.
    async fn call(&self, batch: &mut [PendingRequest]) -> Option<Result<Inference, Error>> {
        let first = batch.first()?;
        let (request_id, span) = (first.request_id.clone(), first.span.clone());
        let remaining = first.deadline.saturating_duration_since(Instant::now());
        // A batch gets half of the time, so that the other half is left for each request alone.
        let timeout = if batch.len() > 1 { remaining.min(self.client.timeout() / 2) } else { remaining };
        let TargetKey { model, version, in_background } = &self.key;
        let in_background = *in_background;
        let options = CallOptions { model, version: version.as_deref(), request_id, timeout, in_background };
        let inputs = concat_rows(batch);
        let response = pin!(self.client.infer(options, inputs).instrument(span));
        let all_disconnected = join_all(batch.iter_mut().map(|request| request.reply.closed()));
        let result = match select(response, all_disconnected).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => return None,
        };
        self.targets.record_cost(&self.key, &result, batch.iter().map(|request| request.rows).sum());
        Some(result)
    }
}

impl Drop for BatchSender {
    /// Releases the call after a panic. If no other call is in flight, nothing would send the pending requests, so they fail. The
    /// next request starts a new call.
    fn drop(&mut self) {
        if self.is_released {
            return;
        }
        let mut targets = self.targets.lock();
        let Some(queue) = targets.get_mut(&self.key).map(|target| &mut target.queues[self.core]) else { return };
        queue.calls_in_flight -= 1;
        let lost = if queue.calls_in_flight == 0 { std::mem::take(&mut queue.pending) } else { Vec::new() };
        drop(targets);
        let errors = vec![Error::Internal; lost.len()];
        send_replies(lost, errors.into_iter().map(Err));
    }
}

/// Whether one request of a batch may have caused the error, so that the others would succeed without it.
fn may_concern_one_request(error: &Error) -> bool {
    let status = error.status().0;
    status.is_client_error() || status == StatusCode::INTERNAL_SERVER_ERROR || matches!(error, Error::DeadlineExceeded)
}
