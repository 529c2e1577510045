//! Cache-aside predictor: in-process cache, then Redis, then single flight, then the model.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use contract::ImageArray;
use db_api::cache::{CacheEntry, CacheOutcome, Failure, ResultCache};
use open_inference::{CacheLookup, Inference, Statistics, Tensor, only_required_input};
use service::memory_budget::Reservation;

use super::backend::Backend;
use super::request::PredictionRequest;
use super::response::PredictionResponse;
use super::row_cache::RowCache;
use crate::blocking_pool::BlockingPool;
use crate::cache_control::{CacheStatus, RequestOptions, UncachedReason};
use crate::error::Error;
use crate::jobs::throttle::BackgroundThrottle;
use crate::metrics::Metrics;
use crate::settings::AppType;
use crate::upstream::catalog::{Catalog, CatalogEntry};
use crate::upstream::external_workers::ExternalWorkers;
use crate::upstream::model_client::ModelClient;

/// Serves requests from the cache, or runs the model.
#[derive(Clone)]
pub struct Predictor {
    app_type: AppType,
    catalog: Catalog,
    cache: ResultCache<Error>,
    rows: RowCache,
    backend: Backend,
    metrics: Metrics,
    throttle: BackgroundThrottle,
    statistics: Statistics,
    /// Where large tensors are hashed.
    pub(super) blocking_pool: BlockingPool,
}

impl Predictor {
    /// Builds the backend and the row cache.
    pub fn new(
        app_type: AppType,
        catalog: Catalog,
        cache: ResultCache<Error>,
        client: ModelClient,
        external_workers: ExternalWorkers,
        metrics: Metrics,
        blocking_pool: BlockingPool,
    ) -> Self {
        let throttle = BackgroundThrottle::default();
        let backend = Backend::new(client, external_workers, catalog.clone(), metrics.clone(), throttle.clone());
        let rows = RowCache::new(cache.clone(), backend.clone(), blocking_pool.clone());
        let statistics = Statistics::default();
        Self { app_type, catalog, cache, rows, backend, metrics, throttle, statistics, blocking_pool }
    }

    /// A request with tensors to `version` of `model`, or to its default version. Hashes the inputs.
    pub fn request_from_tensors(
        &self,
        model: &str,
        version: Option<&str>,
        inputs: Vec<Tensor>,
    ) -> Result<PredictionRequest, Error> {
        let model = self.catalog.find_version(model, version)?;
        Ok(PredictionRequest::new(self.app_type, model, version.is_some(), inputs))
    }

    /// A request with an encoded image to `model`, or to the only model. Hashes the image.
    pub fn request_from_image(&self, model: Option<&str>, image: Bytes) -> Result<PredictionRequest, Error> {
        PredictionRequest::from_image(self.app_type, self.find_loaded(model)?, image)
    }

    /// A request with the JSON body of the legacy API to `model`, or to the only model. Parses and hashes the body.
    /// Reserves its allocations in `memory` beforehand.
    pub fn request_from_array(
        &self,
        model: Option<&str>,
        body: &[u8],
        memory: &mut Reservation,
    ) -> Result<PredictionRequest, Error> {
        let model = self.find_loaded(model)?;
        let values = ImageArray::max_value_bytes(body);
        memory.reserve(values)?;
        let array = ImageArray::from_json(body).map_err(|error| Error::InvalidJson(error.to_string()))?;
        let input = only_required_input(&model.inputs).ok_or_else(|| Error::ArrayNotAccepted(model.name.clone()))?;
        memory.reserve(array.values.len() * input.datatype.size().unwrap_or_default())?;
        // For a model with channels first, the values are transposed.
        memory.reserve(values)?;
        let tensor = array.to_tensor(input)?;
        memory.release(2 * values);
        Ok(PredictionRequest::new(self.app_type, model, false, vec![tensor]))
    }

    fn find_loaded(&self, model: Option<&str>) -> Result<CatalogEntry, Error> {
        self.catalog.find(model)?.require_loaded()
    }

    /// The image after the preprocessing of `model`, as a PNG.
    pub async fn preview(&self, model: Option<&str>, image: Bytes) -> Result<Bytes, Error> {
        let model = self.catalog.find(model)?;
        self.backend.preview(&model.name, image).await
    }

    /// Throttle of background work, which interactive requests activate.
    pub fn throttle(&self) -> &BackgroundThrottle {
        &self.throttle
    }

    /// Statistics of each model, over all routes.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Serves a request, within what `options` allows.
    pub async fn predict(
        &self,
        request: &PredictionRequest,
        options: RequestOptions,
    ) -> Result<PredictionResponse, Error> {
        let started = Instant::now();
        let result = self.get_or_infer(request, options).await;
        let (name, rows) = (request.model().name.as_str(), request.row_count());
        match &result {
            Ok(PredictionResponse { entry, cache_status }) => {
                let inference = &entry.inference;
                let lookup = match cache_status {
                    CacheStatus::Bypass(_) | CacheStatus::Uncached(_) => None,
                    _ if cache_status.is_reused() => Some(CacheLookup::Hit),
                    _ => Some(CacheLookup::Miss),
                };
                // In a batch, only the rows that were not cached have run.
                let ran = if let CacheStatus::Rows(rows) = cache_status { rows.miss } else { rows };
                let timing = &inference.provenance.timing_ms;
                self.statistics.record_success(name, &inference.version, ran, timing, started.elapsed(), lookup);
                self.metrics.record_results(name, *cache_status, rows);
            }
            Err(error) => {
                self.statistics.record_failure(name, &request.model().version, started.elapsed());
                self.metrics.record_error(error.status().1);
            }
        }
        result
    }

    async fn get_or_infer(
        &self,
        request: &PredictionRequest,
        options: RequestOptions,
    ) -> Result<PredictionResponse, Error> {
        if options.allows_lookup()
            && request.rows().is_empty()
            && request.uncached().is_none()
            && let Some(entry) = self.cache.get_local(request.key())
        {
            return Ok(PredictionResponse { entry, cache_status: CacheStatus::Lookup(CacheOutcome::LocalHit) });
        }
        // Boxed: the future of a hit is moved several times, and stays small without this part.
        Box::pin(self.lookup_or_infer(request, options)).await
    }

    async fn lookup_or_infer(
        &self,
        request: &PredictionRequest,
        options: RequestOptions,
    ) -> Result<PredictionResponse, Error> {
        if let Some(reason) = request.uncached() {
            return self.infer_uncached(request, reason, options).await;
        }
        if !options.allows_lookup() {
            return self.bypass(request, options).await;
        }
        if !request.rows().is_empty()
            && let Some(response) = self.rows.predict(request, options).await?
        {
            return Ok(response);
        }
        let (key, name) = (request.key(), request.model().name.as_str());
        let (entry, outcome) = if options.only_if_cached {
            self.cache.get(key, name).await.ok_or(Error::NotCached)?
        } else {
            let infer = async { self.infer(request, options).await.map_err(Failure::from) };
            let (priority, key_of) = (options.priority(), |inference: &Inference| request.key_of(inference));
            let found = self.cache.get_or_compute(key, name, priority, key_of, infer).await;
            found.map_err(|failure| failure.error)?
        };
        if request.version().is_some_and(|version| version != entry.inference.version) {
            // This request has joined the flight of a request without a version, and the default version has changed meanwhile.
            return self.bypass(request, RequestOptions { no_cache: true, ..options }).await;
        }
        Ok(PredictionResponse { entry, cache_status: CacheStatus::Lookup(outcome) })
    }

    /// Runs a model whose results are not cached. Identical concurrent requests run separately: they must not share a result. The
    /// steps of a pipeline are cached as their own models allow.
    async fn infer_uncached(
        &self,
        request: &PredictionRequest,
        reason: UncachedReason,
        options: RequestOptions,
    ) -> Result<PredictionResponse, Error> {
        if options.only_if_cached {
            return Err(Error::NotCached);
        }
        let inference = self.infer(request, options).await?;
        let entry = Arc::new(CacheEntry::new(request.key_of(&inference), inference));
        Ok(PredictionResponse { entry, cache_status: CacheStatus::Uncached(reason) })
    }

    /// Runs the model without a lookup.
    async fn bypass(&self, request: &PredictionRequest, options: RequestOptions) -> Result<PredictionResponse, Error> {
        if options.only_if_cached {
            return Err(Error::NotCached);
        }
        let inference = self.infer(request, options).await?;
        let key = request.key_of(&inference);
        if options.no_store {
            let entry = Arc::new(CacheEntry::new(key, inference));
            return Ok(PredictionResponse { entry, cache_status: CacheStatus::Bypass(None) });
        }
        let (entry, storage) = match self.rows.put(request, &inference).await? {
            Some(storage) => (Arc::new(CacheEntry::new(key, inference)), storage),
            None => self.cache.put(key, inference),
        };
        Ok(PredictionResponse { entry, cache_status: CacheStatus::Bypass(Some(storage)) })
    }

    async fn infer(&self, request: &PredictionRequest, options: RequestOptions) -> Result<Inference, Error> {
        match &request.model().pipeline {
            Some(pipeline) => self.run_steps(request, pipeline, options).await,
            None => self.backend.infer(request, options.in_background).await,
        }
    }
}
