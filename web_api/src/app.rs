use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::error::Error;
use crate::job_watcher::JobWatchers;
use crate::job_worker::JobWorker;
use crate::metrics::Metrics;
use crate::model_client::ModelClient;
use crate::predictor::Predictor;
use crate::purge;
use crate::queue_client::QueueClient;
use crate::queue_probe::QueueProbe;
use crate::rarely::Rarely;
use crate::replay::Replay;
use crate::routes::{cache, cors, docs, health, input, jobs, page, predict, security, static_files, web_api};
use crate::settings::{AppType, JobSettings, Settings};
use crate::webhook::WebhookSettings;
use crate::workbench::Workbench;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use db_api::jobs::{Jobs, LocalJobs, RedisJobs};
use db_api::memory::Memory;
use db_api::metrics::MemoryMetrics;
use db_api::store::RedisStore;
use open_inference::{grpc, rest};
use prometheus_client::registry::Registry;
use service::body_limits::BodyReader;
use service::instrument::{HttpMetrics, instrument_with};
use service::readiness::Readiness;
use service::request_guard::RequestGuard;
use service::settings::SettingError;

/// What every handler may use. Cheap to clone, which happens several times for each request.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// The parts of an [`App`].
pub struct Parts {
    /// A page, or JSON everywhere.
    pub app_type: AppType,
    /// Answers questions.
    pub predictor: Predictor,
    /// Which models there are.
    pub catalog: Catalog,
    /// What is remembered.
    pub memory: Memory<Error>,
    /// Bounds for request bodies.
    pub bodies: BodyReader,
    /// Where large bodies are taken apart.
    pub workbench: Workbench,
    /// Held while stopping.
    pub readiness: Readiness,
    /// Which requests reach their routes.
    guard: RequestGuard,
    /// How `model_api` is reached.
    pub(crate) client: ModelClient,
    /// Whether who reaches the port may load and unload models.
    pub(crate) repository_api: bool,
    /// Slow and large work.
    pub jobs: Jobs,
    /// Looks at jobs for all that listen to them.
    pub watchers: JobWatchers,
    /// How the queue of jobs is.
    pub(crate) queue_probe: QueueProbe,
    /// Inputs of one job.
    pub(crate) max_job_inputs: usize,
    /// Bytes of one job's inputs, unpacked.
    pub(crate) max_job_bytes: u64,
    /// Whether who reaches the port may see all jobs.
    pub(crate) job_list: bool,
    /// Who may be told that a job has ended.
    pub(crate) webhooks: Option<WebhookSettings>,
    /// What is counted of questions and jobs.
    metrics: Metrics,
    /// What is counted of requests.
    http: HttpMetrics,
    /// The page's styles and scripts.
    pub assets: Arc<static_files::Assets>,
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl App {
    /// Puts the parts together; a [`SettingError`] when the settings allow none. The future is their work in the background; it never ends by itself.
    pub fn new(
        settings: &Settings,
        registry: &mut Registry,
    ) -> anyhow::Result<(Self, impl Future<Output = ()> + Send + use<>)> {
        let memory_metrics = MemoryMetrics::register(registry);
        let redis = settings
            .redis_url
            .as_deref()
            .map(|url| RedisStore::new(url, settings.redis_timeout, settings.cache_ttl, memory_metrics))
            .transpose()
            .map_err(|error| SettingError::new("REDIS_URL", error))?;
        let memory = Memory::new(settings.near_cache_bytes, settings.cache_ttl, redis);
        let jobs = match settings.redis_url.as_deref() {
            Some(url) => RedisJobs::new(url, settings.jobs.limits)
                .map(Jobs::Redis)
                .map_err(|error| SettingError::new("REDIS_URL", error))?,
            None => Jobs::Local(LocalJobs::new(settings.jobs.limits)),
        };
        let workbench = Workbench::default();
        let catalog = Catalog::default();
        let metrics = Metrics::register(registry);
        let queue = QueueClient::new(jobs.clone());
        let purged_jobs = jobs.clone();
        let (bodies, readiness) = (BodyReader::new(&settings.server), Readiness::default());
        let client = ModelClient::new(settings, workbench.clone(), bodies.budget().clone())?;
        let watchers = JobWatchers::new(jobs.clone(), bodies.budget().clone(), readiness.clone());
        let queue_probe = QueueProbe::register(jobs.clone(), registry);
        let probe = queue_probe.clone();
        let parts = Parts {
            app_type: settings.app_type,
            predictor: Predictor::new(
                settings.app_type,
                catalog.clone(),
                memory.clone(),
                client.clone(),
                queue.clone(),
                metrics.clone(),
                workbench.clone(),
            ),
            catalog: catalog.clone(),
            memory: memory.clone(),
            bodies,
            workbench,
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
            metrics: metrics.clone(),
            http: HttpMetrics::register(registry),
            assets: Arc::default(),
        };
        let background = async move {
            let purge = purge::follow(catalog.clone(), memory.clone(), purged_jobs);
            tokio::join!(memory.run(), catalog.clone().follow(client), catalog.follow_queue(queue), purge, probe.run());
        };
        Ok((Self(Arc::new(parts)), background))
    }
}

/// All routes, without a socket.
pub fn router(app: &App) -> Router {
    let jobs = Router::new()
        .route("/jobs", post(jobs::submit::submit).get(jobs::job::list))
        .route("/jobs/{id}", get(jobs::job::show).delete(jobs::job::cancel))
        .route("/jobs/{id}/retry", post(jobs::job::retry))
        .route("/jobs/{id}/events", get(jobs::events::listen))
        .route("/jobs/{id}/results", get(jobs::results::collect))
        .layer(Extension(replay(app)));
    let respond_async = from_fn_with_state(app.clone(), jobs::submit::respond_async);
    let respond_async = Rarely { is_for: jobs::submit::prefers_async, layer: respond_async };
    let routes = Router::new()
        .route("/", get(page::show))
        .route("/input/{model}", post(input::input))
        .route("/web_api", post(web_api::web_api))
        .route("/web_api/{model}", post(web_api::web_api))
        .route("/cache/{model}", delete(cache::forget))
        .route("/docs", get(docs::page))
        .route("/docs/{file}", get(docs::file))
        .route("/openapi.json", get(docs::openapi))
        .route("/v2/docs", get(docs::v2))
        .route("/v2/models/{model}/docs", get(docs::model))
        .route("/v2/models/{model}/versions/{version}/docs", get(docs::model))
        .route("/static/{file}", get(static_files::file))
        .merge(jobs)
        .method_not_allowed_fallback(async |method| Error::Method(method))
        .fallback(async || Error::NoRoute)
        .with_state(app.clone())
        .merge(questions(app).layer(respond_async))
        .merge(health_routes(app))
        // After the fallbacks: what the protocol has no route for, it says in its own way.
        .merge(grpc::router(app.clone(), app.bodies.clone()));
    let routes = cors::allow(routes, app.guard.origins());
    instrument_with(routes, app.http.clone(), app.guard.clone(), security::headers)
}

/// The routes that answer questions at once.
fn questions(app: &App) -> Router {
    Router::new()
        .route("/predict", post(predict::predict))
        .route("/predict/{model}", post(predict::predict))
        .method_not_allowed_fallback(async |method| Error::Method(method))
        .with_state(app.clone())
        .merge(rest::router(app.clone(), app.bodies.clone()))
}

/// Asks those routes what jobs ask.
fn replay(app: &App) -> Replay {
    Replay::new(questions(app))
}

/// Works on jobs. Nothing begins before it is run.
pub fn job_worker(app: &App, settings: &JobSettings) -> JobWorker {
    JobWorker::new(
        app.jobs.clone(),
        app.catalog.clone(),
        replay(app),
        app.metrics.clone(),
        app.predictor.people().clone(),
        *settings,
    )
    .telling(app.webhooks.clone())
}

/// What there is to ask of a process that works on jobs and answers nobody.
pub fn health_router(app: &App) -> Router {
    let routes = health_routes(app).fallback(async || Error::NoRoute);
    instrument_with(routes, app.http.clone(), app.guard.clone(), security::headers)
}

/// Live and ready, also for the listener that is never published: its places are free for health checks.
pub fn health_routes(app: &App) -> Router {
    Router::new()
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .method_not_allowed_fallback(async |method| Error::Method(method))
        .with_state(app.clone())
}
