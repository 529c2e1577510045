//! Row-level cache: rows of a batch that are cached are looked up, and the model runs once for the others.
//!
//! Each row has the same key as a request with that row alone, so rows and requests share cache entries and flights. On top of
//! [`ResultCache`], the flights that a batch starts are computed with one request to the model:
//!
//! 1. All rows are looked up, in process and in Redis. Equal rows are looked up once.
//! 2. For each row that is not cached, a flight is joined or started. A flight that is started adds its row to the [`RowBatch`] and
//!    waits for the result. A flight that is joined belongs to another request, and its result is awaited.
//! 3. Once all flights have been started, the batch is sent to `model_api` as one request, and the result is split into rows.
//!
//! The batch does not wait for the flights that were joined, so two requests that wait for rows of each other both make progress. When
//! the caller of a flight disconnects, a request that has joined it takes it over. Its row is then sent with a later batch.
//!
//! Whenever results cannot be assembled, the request is computed as a whole, which is always correct.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use db_api::cache::{CacheEntry, CacheOutcome, Failure, ResultCache, StoreResult};
use futures_util::future::join_all;
use http::{HeaderMap, StatusCode};
use open_inference::{Inference, Tensor};
use tokio::task::yield_now;
use tracing::warn;

use super::backend::Backend;
use super::request::{PredictionRequest, RequestRow};
use super::response::PredictionResponse;
use super::row_batch::{PendingRow, RowBatch};
use crate::blocking_pool::BlockingPool;
use crate::cache_control::{CacheStatus, RequestOptions, RowCounts};
use crate::error::Error;

/// Caches the rows of batches individually.
#[derive(Clone)]
pub struct RowCache {
    cache: ResultCache<Error>,
    backend: Backend,
    blocking_pool: BlockingPool,
    /// Digests of models that are declared to have independent rows, but return another number of rows.
    disabled_for: Arc<Mutex<HashSet<String>>>,
}

type CachedRow = (Arc<CacheEntry>, CacheOutcome);

/// The distinct rows of a request.
struct DistinctRows {
    /// Index of the first row of each kind.
    first: Vec<usize>,
    /// For each row, its index in `first`.
    index: Vec<usize>,
}

impl DistinctRows {
    fn of(rows: &[RequestRow]) -> Self {
        let (mut numbers, mut first) = (HashMap::new(), Vec::new());
        let mut number_of = |(row_index, row): (usize, &RequestRow)| {
            *numbers.entry(row.key).or_insert_with(|| {
                first.push(row_index);
                first.len() - 1
            })
        };
        let index = rows.iter().enumerate().map(&mut number_of).collect();
        Self { first, index }
    }
}

impl RowCache {
    pub fn new(cache: ResultCache<Error>, backend: Backend, blocking_pool: BlockingPool) -> Self {
        Self { cache, backend, blocking_pool, disabled_for: Arc::default() }
    }

    /// Serves a request with rows. `None` if it must be computed as a whole.
    pub async fn predict(
        &self,
        request: &PredictionRequest,
        options: RequestOptions,
    ) -> Result<Option<PredictionResponse>, Error> {
        if self.is_disabled(&request.model().digest) {
            return Ok(None);
        }
        let distinct = DistinctRows::of(request.rows());
        let keys: Vec<_> = distinct.first.iter().map(|&row| request.rows()[row].key).collect();
        let mut found = self.cache.get_all(&keys, &request.model().name).await;
        let missing: Vec<usize> = (0..found.len()).filter(|&number| found[number].is_none()).collect();
        if !missing.is_empty() {
            if options.only_if_cached {
                return Ok(None);
            }
            let rows: Vec<usize> = missing.iter().map(|&number| distinct.first[number]).collect();
            let is_all = rows.len() == request.rows().len();
            let computed = self.join_or_compute(request, &rows, options).await;
            for (number, result) in missing.into_iter().zip(computed) {
                match result {
                    Ok(row) => found[number] = Some(row),
                    // The message refers to row numbers of the batch. Computing the whole request gives a message that matches what
                    // the client sent.
                    Err(Failure { error, is_shared_fault: true })
                        if matches!(error, Error::Internal) || (!is_all && error.status().0.is_client_error()) =>
                    {
                        return Ok(None);
                    }
                    Err(Failure { error, .. }) => return Err(error),
                }
            }
        }
        let Some(found) = found.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
        self.assemble(request, &found, &distinct.index).await
    }

    /// Stores the rows of `whole`, the result of `request`. Returns whether all were stored; `None` if the request has no rows.
    pub async fn put(&self, request: &PredictionRequest, whole: &Inference) -> Result<Option<StoreResult>, Error> {
        if request.rows().is_empty() {
            return Ok(None);
        }
        let Some(results) = self.split_rows(whole.clone(), request.rows().len()).await? else {
            self.disable(request, whole);
            return Ok(None);
        };
        let mut stored = Ok(());
        for (row, result) in request.rows().iter().zip(results) {
            let (_, storage) = self.cache.put(request.key_of_row(row, &result), result);
            stored = stored.and(storage);
        }
        Ok(Some(stored))
    }

    /// Computes `rows` of `request`, or waits for the flights that compute them.
    async fn join_or_compute(
        &self,
        request: &PredictionRequest,
        rows: &[usize],
        options: RequestOptions,
    ) -> Vec<Result<CachedRow, Failure<Error>>> {
        let batch = RowBatch::default();
        let priority = options.priority();
        let flight = |index: usize| {
            let row = &request.rows()[index];
            let key_of = |inference: &Inference| request.key_of_row(row, inference);
            self.cache.join_or_compute(row.key, priority, key_of, batch.compute(index))
        };
        let flights = join_all(rows.iter().copied().map(flight));
        let send_batches = async {
            loop {
                batch.row_added().await;
                // After this, all flights that start now have been polled once and have added their rows.
                yield_now().await;
                self.send_batch(request, batch.take(), options.in_background).await;
            }
        };
        tokio::select! {
            biased;
            results = flights => results,
            never = send_batches => never,
        }
    }

    /// Sends one request for all `pending` rows.
    async fn send_batch(&self, request: &PredictionRequest, mut pending: Vec<PendingRow>, in_background: bool) {
        // Drop rows whose callers have disconnected.
        pending.retain(|row| !row.reply.is_closed());
        if pending.is_empty() {
            return;
        }
        pending.sort_by_key(|pending| pending.row);
        let rows: Vec<_> = pending.iter().map(|pending| pending.row).collect();
        match self.infer_rows(request, &rows, in_background).await {
            Ok(results) => {
                for (PendingRow { reply, .. }, result) in pending.into_iter().zip(results) {
                    let _ = reply.send(Ok(result));
                }
            }
            Err(failure) => {
                for PendingRow { reply, .. } in pending {
                    let _ = reply.send(Err(failure.clone()));
                }
            }
        }
    }

    /// Runs the model on these rows, and splits its result.
    async fn infer_rows(
        &self,
        request: &PredictionRequest,
        rows: &[usize],
        in_background: bool,
    ) -> Result<Vec<Inference>, Failure<Error>> {
        let is_all = rows.len() == request.rows().len();
        let inputs = if is_all {
            request.inputs()
        } else {
            let rows = rows.iter().map(|&row| request.rows()[row].inputs.clone()).collect();
            // Rows of one request have the same inputs, so they can be joined.
            self.concat_rows(rows).await?.ok_or(Error::Internal)?
        };
        let whole =
            self.backend.infer_rows(request, inputs, rows.len() as u64, in_background).await.map_err(|error| {
                // A client error or a crash may be caused by one of several rows, and does not concern the others.
                let status = error.status().0;
                let is_fault_of_rows = status.is_client_error() || status == StatusCode::INTERNAL_SERVER_ERROR;
                let is_shared_fault = rows.len() > 1 && is_fault_of_rows;
                Failure { error, is_shared_fault }
            })?;
        let results = self.split_rows(whole.clone(), rows.len()).await?;
        results.ok_or_else(|| {
            self.disable(request, &whole);
            Failure { error: Error::Internal, is_shared_fault: true }
        })
    }

    /// Joins the results of all rows. `None` if they do not match: they have different versions or shapes, or another version than
    /// the requested one.
    async fn assemble(
        &self,
        request: &PredictionRequest,
        found: &[CachedRow],
        index: &[usize],
    ) -> Result<Option<PredictionResponse>, Error> {
        // Version and provenance are those of a row that was computed now, if there is one.
        let fresh = found.iter().find(|(_, outcome)| outcome.is_computed()).or(found.first());
        let Some(Inference { model, version, provenance, .. }) = fresh.map(|(entry, _)| entry.inference.clone()) else {
            return Ok(None);
        };
        let matches = |(entry, _): &CachedRow| {
            let Inference { version: of, provenance: by, outputs, .. } = &entry.inference;
            *of == version
                && by.model_digest == provenance.model_digest
                && outputs.iter().all(|output| output.rows() == Some(1))
        };
        // A row may come from a flight of a request without a version, whose default version has changed meanwhile.
        let is_requested = request.version().is_none_or(|requested| requested == version);
        if !is_requested || !found.iter().all(matches) {
            return Ok(None);
        }
        let rows = index.iter().map(|&number| found[number].0.inference.outputs.clone()).collect();
        let Some(outputs) = self.concat_rows(rows).await? else { return Ok(None) };
        let inference = Inference { model, version, outputs, provenance, headers: HeaderMap::new() };
        let mut entry = CacheEntry::new(request.key_of(&inference), inference);
        let oldest = found.iter().map(|(entry, _)| entry.stored_at).min();
        entry.stored_at = oldest.unwrap_or(entry.stored_at);
        let cache_status = CacheStatus::Rows(count_rows(found, index));
        Ok(Some(PredictionResponse { entry: Arc::new(entry), cache_status }))
    }

    /// Joins rows into tensors. `None` if they have different outputs or shapes.
    async fn concat_rows(&self, rows: Vec<Vec<Tensor>>) -> Result<Option<Vec<Tensor>>, Error> {
        let bytes = rows.iter().flatten().map(|tensor| tensor.data.len()).sum();
        let concat = move || {
            let columns = rows.first().map_or(0, Vec::len);
            if rows.iter().any(|row| row.len() != columns) {
                return None;
            }
            let column = |number| {
                let parts: Option<Vec<_>> = rows.iter().map(|row| row.get(number)).collect();
                Tensor::concat_rows(&parts?)
            };
            (0..columns).map(column).collect()
        };
        Ok(self.blocking_pool.run(bytes, concat).await?)
    }

    /// Splits a result into `rows` rows. `None` if an output has another number of rows.
    async fn split_rows(&self, whole: Inference, rows: usize) -> Result<Option<Vec<Inference>>, Error> {
        let bytes = whole.outputs.iter().map(|output| output.data.len()).sum();
        let split = move || {
            if !whole.outputs.iter().all(|output| output.rows() == Some(rows)) {
                return None;
            }
            let mut columns: Vec<_> = whole.outputs.iter().map(|output| output.split_rows().into_iter()).collect();
            let row = |_| {
                // A copy: a cached row must not keep the whole result in memory.
                let own = |row: Tensor| Tensor { data: Bytes::copy_from_slice(&row.data), ..row };
                let outputs = columns.iter_mut().filter_map(Iterator::next).map(own).collect();
                Inference { outputs, ..whole.clone() }
            };
            Some((0..rows).map(row).collect())
        };
        Ok(self.blocking_pool.run(bytes, split).await?)
    }

    fn is_disabled(&self, digest: &str) -> bool {
        self.disabled_for.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    fn disable(&self, request: &PredictionRequest, whole: &Inference) {
        let digest = whole.provenance.model_digest.clone();
        if self.disabled_for.lock().unwrap_or_else(PoisonError::into_inner).insert(digest) {
            let shapes: Vec<_> = whole.outputs.iter().map(|output| &output.shape).collect();
            let model = &request.model().name;
            warn!(
                model,
                ?shapes,
                "independent_rows is set, but outputs have another number of rows than inputs; row cache disabled"
            );
        }
    }
}

/// Counts rows by cache outcome. Repetitions of a row that was not cached count as collapsed.
fn count_rows(found: &[CachedRow], index: &[usize]) -> RowCounts {
    let mut counts = RowCounts::default();
    let mut is_first = vec![true; found.len()];
    for &number in index {
        let is_hit = matches!(found[number].1, CacheOutcome::LocalHit | CacheOutcome::RedisHit);
        let first = std::mem::take(&mut is_first[number]);
        counts.add(if is_hit || first { found[number].1 } else { CacheOutcome::Collapsed });
    }
    counts
}
