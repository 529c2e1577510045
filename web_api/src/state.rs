use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;

use db_api::cache::{RedisStore, ResultCache};
use db_api::jobs::{InMemoryJobs, Jobs, RedisJobs};
use db_api::metrics::CacheMetrics;
use prometheus_client::registry::Registry;
use service::body_limits::BodyReader;
use service::instrument::HttpMetrics;
use service::readiness::Readiness;
use service::request_guard::RequestGuard;
use service::settings::SettingError;

use crate::blocking_pool::BlockingPool;
use crate::error::Error;
use crate::inference::predictor::Predictor;
use crate::inference::purge;
use crate::jobs::queue_probe::QueueProbe;
use crate::jobs::watcher::JobWatchers;
use crate::metrics::Metrics;
use crate::settings::{AppType, Settings};
use crate::upstream::catalog::Catalog;
use crate::upstream::external_workers::ExternalWorkers;
use crate::upstream::model_client::ModelClient;
use crate::webhook::settings::WebhookSettings;

/// State that all handlers share. Cheap to clone: axum clones it several times for each request.
#[derive(Clone)]
pub struct AppState(Arc<Components>);

/// Components of an [`AppState`].
pub struct Components {
    /// `APP_TYPE`: HTML page, or JSON on every route.
    pub app_type: AppType,
    /// Computes and caches results.
    pub predictor: Predictor,
    /// Models that `model_api` and external workers serve.
    pub catalog: Catalog,
    /// Result cache.
    pub cache: ResultCache<Error>,
    /// Reads request bodies within their limits.
    pub bodies: BodyReader,
    /// Parses large bodies off the async threads.
    pub blocking_pool: BlockingPool,
    /// Readiness latch, held while the service shuts down.
    pub readiness: Readiness,
    /// Checks `Host` and `Origin` before a request reaches its route.
    pub(crate) guard: RequestGuard,
    /// Client of `model_api`.
    pub(crate) client: ModelClient,
    /// `REPOSITORY_API`: whether clients may load and unload models.
    pub(crate) repository_api: bool,
    /// Job queue.
    pub jobs: Jobs,
    /// One watcher per job, shared by all requests that wait for the job.
    pub watchers: JobWatchers,
    /// Health of the job queue.
    pub(crate) queue_probe: QueueProbe,
    /// `MAX_JOB_INPUTS`: maximum number of inputs of one job.
    pub(crate) max_job_inputs: usize,
    /// `MAX_JOB_BYTES`: maximum size of the inputs of one job in bytes, unpacked.
    pub(crate) max_job_bytes: u64,
    /// `JOB_LIST`: whether clients may list all jobs.
    pub(crate) job_list: bool,
    /// Hosts that webhooks may call, and the key that signs them. `None`: webhooks are disabled.
    pub(crate) webhooks: Option<WebhookSettings>,
    /// Metrics of results and jobs.
    pub(crate) metrics: Metrics,
    /// Metrics of HTTP requests.
    pub(crate) http: HttpMetrics,
}

impl Deref for AppState {
    type Target = Components;

    fn deref(&self) -> &Components {
        &self.0
    }
}

impl AppState {
    /// Builds the state. Returns a [`SettingError`] where a setting is invalid.
    ///
    /// The returned future runs the background work of all components. It never completes.
    pub fn new(
        settings: &Settings,
        registry: &mut Registry,
    ) -> anyhow::Result<(Self, impl Future<Output = ()> + Send + use<>)> {
        let cache = result_cache(settings, registry)?;
        let jobs = job_queue(settings)?;
        let blocking_pool = BlockingPool::default();
        let catalog = Catalog::default();
        let metrics = Metrics::register(registry);
        let queue = ExternalWorkers::new(jobs.clone());
        let purged_jobs = jobs.clone();
        let (bodies, readiness) = (BodyReader::new(&settings.server), Readiness::default());
        let client = ModelClient::new(settings, blocking_pool.clone(), bodies.budget().clone())?;
        let watchers = JobWatchers::new(jobs.clone(), bodies.budget().clone(), readiness.clone());
        let queue_probe = QueueProbe::register(jobs.clone(), registry);
        let probe = queue_probe.clone();
        let predictor = Predictor::new(
            settings.app_type,
            catalog.clone(),
            cache.clone(),
            client.clone(),
            queue.clone(),
            metrics.clone(),
            blocking_pool.clone(),
        );
        let components = Components {
            app_type: settings.app_type,
            predictor,
            catalog: catalog.clone(),
            cache: cache.clone(),
            bodies,
            blocking_pool,
            readiness,
            guard: settings.guard.clone(),
            client: client.clone(),
            repository_api: settings.repository_api,
            jobs,
            watchers,
            queue_probe,
            max_job_inputs: settings.jobs.max_inputs,
            max_job_bytes: settings.jobs.max_bytes,
            job_list: settings.jobs.list,
            webhooks: settings.webhooks.clone(),
            metrics,
            http: HttpMetrics::register(registry),
        };
        let background = async move {
            let purge = purge::run(catalog.clone(), cache.clone(), purged_jobs);
            tokio::join!(
                cache.run(),
                catalog.clone().poll(client),
                catalog.poll_external_workers(queue),
                purge,
                probe.run()
            );
        };
        Ok((Self(Arc::new(components)), background))
    }
}

fn result_cache(settings: &Settings, registry: &mut Registry) -> Result<ResultCache<Error>, SettingError> {
    let metrics = CacheMetrics::register(registry);
    let redis = settings
        .redis_url
        .as_deref()
        .map(|url| RedisStore::new(url, settings.redis_timeout, settings.cache_ttl, metrics))
        .transpose()
        .map_err(|error| SettingError::new("REDIS_URL", error))?;
    Ok(ResultCache::new(settings.near_cache_bytes, settings.cache_ttl, redis))
}

fn job_queue(settings: &Settings) -> Result<Jobs, SettingError> {
    match settings.redis_url.as_deref() {
        Some(url) => RedisJobs::new(url, settings.jobs.limits)
            .map(Jobs::Redis)
            .map_err(|error| SettingError::new("REDIS_URL", error)),
        None => Ok(Jobs::InMemory(InMemoryJobs::new(settings.jobs.limits))),
    }
}
