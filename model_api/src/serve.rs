//! Startup and shutdown: builds the components, serves until a signal, drains.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use axum::Router;
use open_inference::Statistics;
use prometheus_client::registry::Registry;
use service::body_limits::BodyReader;
use service::http_server::{listen, serve};
use service::instrument::HttpMetrics;
use service::readiness::Readiness;
use service::settings::ServerSettings;
use service::shutdown;
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::blocking_pool::BlockingPool;
use crate::memory::{Budget, MAX_RESULT_BYTES, SessionLimits};
use crate::metrics::Metrics;
use crate::model::loader::LoadSettings;
use crate::registry::ModelRegistry;
use crate::registry::watch::RepositoryWatcher;
use crate::repository::{Repository, RepositoryEntry, Selection};
use crate::router::{health_router, router};
use crate::scheduler::QueueLimits;
use crate::session::ChildLauncher;
use crate::settings::Settings;
use crate::state::AppState;

/// Serves `models` until a termination signal. Returns an error when a listener cannot be bound, when `DEVICE=cuda` does not
/// work, or when connections had to be cut at shutdown.
pub async fn run(
    settings: Settings,
    repository: Repository,
    models: BTreeMap<String, RepositoryEntry>,
) -> anyhow::Result<()> {
    let names = models.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    info!(models = names, device = ?settings.device, threads = settings.session_threads, "model_api starts");
    let mut prometheus = Registry::with_prefix("model_api");
    let (metrics, http) = (Metrics::register(&mut prometheus), HttpMetrics::register(&mut prometheus));
    let listener = bind(settings.server.address)?;
    let metrics_listener = bind(settings.server.metrics_address)?;
    let signalled = shutdown::signal()?;

    log_skipped_files(&repository);
    let watcher = RepositoryWatcher::new(repository.clone(), settings.models.clone());
    let registry = ModelRegistry::start(repository, models, &launcher(&settings), load_settings(&settings), &metrics);
    let state = Arc::new(app_state(&settings, &registry, metrics));
    let unpublished = service::metrics::router(prometheus).merge(health_router(&state));

    let mut device_failure = None;
    let stop = async {
        tokio::select! {
            () = signalled => {}
            reason = registry.device_failure() => device_failure = Some(reason),
        }
    };
    let metrics_settings = settings.server.metrics();
    let served = tokio::select! {
        drained = serve(listener, router(&state, http), &settings.server, &state.readiness, stop) => drained.map_err(Into::into),
        () = watch(watcher, &registry, settings.watch_interval) => Err(anyhow!("the repository watcher has ended")),
        () = serve_metrics(metrics_listener, unpublished, &metrics_settings) => Err(anyhow!("the metrics listener has ended")),
    };
    registry.stop().await;
    served?;
    device_failure.map_or(Ok(()), |reason| bail!(reason))
}

fn app_state(settings: &Settings, registry: &Arc<ModelRegistry>, metrics: Metrics) -> AppState {
    AppState {
        registry: Arc::clone(registry),
        decoder: BlockingPool::for_queues(settings.decode_threads, settings.queue_length),
        image_limits: settings.image_limits,
        input_budget: Budget::new(settings.queue_bytes),
        body_reader: BodyReader::new(&settings.server),
        readiness: Readiness::default(),
        guard: settings.guard.clone(),
        repository_access: settings.repository_access.clone(),
        metrics,
        statistics: Statistics::default(),
    }
}

/// Logs the files that look like models and are not served, each with the reason.
fn log_skipped_files(repository: &Repository) {
    if *repository.selection() != Selection::All {
        return;
    }
    for (name, entry) in repository.scan().unwrap_or_default() {
        for reason in entry.rejection.iter().chain(&entry.skipped) {
            warn!(model = name, reason, "file or folder skipped");
        }
    }
}

async fn watch(watcher: RepositoryWatcher, registry: &Arc<ModelRegistry>, interval: Option<Duration>) {
    match interval {
        Some(interval) => watcher.run(Arc::clone(registry), interval).await,
        None => pending().await,
    }
}

/// Serves metrics until the process ends: the last values are useful while connections drain.
async fn serve_metrics(listener: TcpListener, router: Router, settings: &ServerSettings) {
    let _ = serve(listener, router, settings, &Readiness::default(), pending()).await;
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    listen(address).with_context(|| format!("cannot listen on {address}"))
}

fn launcher(settings: &Settings) -> ChildLauncher {
    ChildLauncher {
        // The running binary, also when another one has since replaced it on disk: parent and child must speak the same protocol.
        program: PathBuf::from("/proc/self/exe"),
        library: settings.library.clone(),
        device: settings.device,
        start_timeout: settings.start_timeout,
        limits: SessionLimits::new(settings.memory.session, settings.memory.sessions),
        results: Budget::new(MAX_RESULT_BYTES),
    }
}

fn load_settings(settings: &Settings) -> LoadSettings {
    LoadSettings {
        threads: settings.session_threads,
        queue: QueueLimits { rows: settings.queue_length, bytes: settings.queue_bytes },
        run_timeout: settings.run_timeout,
    }
}
