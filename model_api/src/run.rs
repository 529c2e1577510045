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

use crate::app::{App, health_router, router};
use crate::decoder::Decoder;
use crate::loader::LoadSettings;
use crate::memory::{Budget, SessionLimits};
use crate::metrics::Metrics;
use crate::models::Models;
use crate::pool::QueueLimits;
use crate::repository::{Found, Repository};
use crate::session::{ChildLauncher, MAX_RESULT_BYTES};
use crate::settings::{Selection, Settings};
use crate::watch::Watch;

/// Parts → serve → wait. An error when a listener cannot be had, `DEVICE=cuda` cannot be kept, or connections had to be cut.
pub async fn run(settings: Settings, repository: Repository, asked_for: BTreeMap<String, Found>) -> anyhow::Result<()> {
    let names = asked_for.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    info!(models = names, device = ?settings.device, threads = settings.session_threads, "model_api starts");
    let mut registry = Registry::with_prefix("model_api");
    let (metrics, http) = (Metrics::register(&mut registry), HttpMetrics::register(&mut registry));
    let listener = bind(settings.server.address)?;
    let metrics_listener = bind(settings.server.metrics_address)?;
    let signalled = shutdown::signal()?;

    log_passed_over(&repository);
    let watch = Watch::new(repository.clone(), settings.models.clone());
    let models = Models::start(repository, asked_for, &launcher(&settings), load_settings(&settings), &metrics);
    let readiness = Readiness::default();
    let app = Arc::new(App {
        models: Arc::clone(&models),
        decoder: Decoder::for_queues(settings.decode_threads, settings.queue_length),
        image_limits: settings.image,
        inputs: Budget::new(settings.queue_bytes),
        bodies: BodyReader::new(&settings.server),
        readiness: readiness.clone(),
        guard: settings.guard.clone(),
        repository_access: settings.repository_access.clone(),
        metrics,
        statistics: Statistics::default(),
    });
    let unpublished = service::metrics::router(registry).merge(health_router(&app));

    let mut refusal = None;
    let stop = async {
        tokio::select! {
            () = signalled => {}
            reason = models.refused() => refusal = Some(reason),
        }
    };
    let metrics_settings = settings.server.metrics();
    let served = tokio::select! {
        drained = serve(listener, router(&app, http), &settings.server, &readiness, stop) => drained.map_err(Into::into),
        () = look_after(watch, &models, settings.watch) => Err(anyhow!("the watch has ended")),
        () = serve_metrics(metrics_listener, unpublished, &metrics_settings) => Err(anyhow!("the metrics have ended")),
    };
    models.stop().await;
    served?;
    refusal.map_or(Ok(()), |reason| bail!(reason))
}

/// Names the files that look like models and are not served, each with the reason.
fn log_passed_over(repository: &Repository) {
    if *repository.selection() != Selection::All {
        return;
    }
    for (name, found) in repository.find().unwrap_or_default() {
        for reason in found.why_none.iter().chain(&found.passed_over) {
            warn!(model = name, reason, "a file or folder is passed over");
        }
    }
}

async fn look_after(watch: Watch, models: &Arc<Models>, pause: Option<Duration>) {
    match pause {
        Some(pause) => watch.run(Arc::clone(models), pause).await,
        None => pending().await,
    }
}

/// Until all is served: the last numbers are worth reading while connections are drained.
async fn serve_metrics(listener: TcpListener, router: Router, settings: &ServerSettings) {
    let _ = serve(listener, router, settings, &Readiness::default(), pending()).await;
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    listen(address).with_context(|| format!("cannot listen on {address}"))
}

fn launcher(settings: &Settings) -> ChildLauncher {
    ChildLauncher {
        // The very program that runs, also when a new one has meanwhile been put in its place: both must talk alike.
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
