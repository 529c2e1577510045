use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::model_client::ModelClient;
use crate::predictor::Predictor;
use crate::routes::{cache, docs, health, input, page, predict, security, static_files, web_api};
use crate::settings::{AppType, Settings};
use crate::workbench::Workbench;
use axum::Router;
use axum::routing::{delete, get, post};
use db_api::memory::Memory;
use db_api::metrics::MemoryMetrics;
use db_api::store::RedisStore;
use open_inference::{grpc, rest};
use prometheus_client::registry::Registry;
use service::body::BodyReader;
use service::middleware::{HttpMetrics, wrap_with};
use service::readiness::Readiness;
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
    /// How `model_api` is reached.
    pub(crate) client: ModelClient,
    /// Whether who reaches the port may load and unload models.
    pub(crate) repository_api: bool,
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
        let workbench = Workbench::default();
        let client = ModelClient::new(settings, workbench.clone())?;
        let catalog = Catalog::default();
        let metrics = Metrics::register(registry);
        let parts = Parts {
            app_type: settings.app_type,
            predictor: Predictor::new(
                settings.app_type,
                catalog.clone(),
                memory.clone(),
                client.clone(),
                metrics,
                workbench.clone(),
            ),
            catalog: catalog.clone(),
            memory: memory.clone(),
            bodies: BodyReader::new(&settings.server),
            workbench,
            readiness: Readiness::default(),
            client: client.clone(),
            repository_api: settings.repository_api,
            http: HttpMetrics::register(registry),
            assets: Arc::default(),
        };
        let background = async move {
            tokio::join!(memory.run(), catalog.follow(client));
        };
        Ok((Self(Arc::new(parts)), background))
    }
}

/// All routes, without a socket.
pub fn router(app: &App) -> Router {
    let routes = Router::new()
        .route("/", get(page::show))
        .route("/predict", post(predict::predict))
        .route("/predict/{model}", post(predict::predict))
        .route("/input/{model}", post(input::input))
        .route("/web_api", post(web_api::web_api))
        .route("/web_api/{model}", post(web_api::web_api))
        .route("/cache/{model}", delete(cache::forget))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/docs", get(docs::page))
        .route("/docs/{file}", get(docs::file))
        .route("/openapi.json", get(docs::openapi))
        .route("/v2/docs", get(docs::v2))
        .route("/v2/models/{model}/docs", get(docs::model))
        .route("/v2/models/{model}/versions/{version}/docs", get(docs::model))
        .route("/static/{file}", get(static_files::file))
        .method_not_allowed_fallback(async |method| Error::Method(method))
        .fallback(async || Error::NoRoute)
        .with_state(app.clone())
        // After the fallbacks: what the protocol has no route for, it says in its own way.
        .merge(rest::router(app.clone(), app.bodies.clone()))
        .merge(grpc::router(app.clone(), app.bodies.clone()));
    wrap_with(routes, app.http.clone(), security::headers)
}
