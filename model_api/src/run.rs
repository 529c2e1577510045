use std::collections::BTreeMap;
use std::future::pending;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use prometheus_client::registry::Registry;
use service::body::BodyReader;
use service::middleware::HttpMetrics;
use service::readiness::Readiness;
use service::server::serve;
use service::settings::ServerSettings;
use service::shutdown;
use tokio::net::TcpListener;
use tracing::info;

use crate::app::{App, router};
use crate::decoder::Decoder;
use crate::loader::LoadSettings;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::repository::ModelFiles;
use crate::session::ChildLauncher;
use crate::settings::Settings;

/// Parts → serve → wait. An error when a listener cannot be had, `DEVICE=cuda` cannot be kept, or connections had to be cut.
pub async fn run(settings: Settings, files: BTreeMap<String, ModelFiles>) -> anyhow::Result<()> {
    let names = files.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    info!(models = names, device = ?settings.device, threads = settings.session_threads, "model_api starts");
    let mut registry = Registry::with_prefix("model_api");
    let (metrics, http) = (Metrics::register(&mut registry), HttpMetrics::register(&mut registry));
    let listener = bind(settings.server.address).await?;
    let metrics_listener = bind(settings.server.metrics_address).await?;
    let signalled = shutdown::signalled()?;

    let models = Arc::new(Models::load(files, &launcher(&settings), &load_settings(&settings), &metrics));
    let readiness = Readiness::default();
    let app = App {
        models: Arc::clone(&models),
        decoder: Decoder::for_queues(settings.decode_threads, settings.queue_length),
        image_limits: settings.image,
        bodies: BodyReader::new(&settings.server),
        readiness: readiness.clone(),
        metrics,
    };

    let mut refusal = None;
    let stop = async {
        tokio::select! {
            () = signalled => {}
            reason = models.refused() => refusal = Some(reason),
        }
    };
    let served = tokio::select! {
        drained = serve(listener, router(app, http), &settings.server, &readiness, stop) => drained.map_err(Into::into),
        () = serve_metrics(metrics_listener, registry, &settings.server) => Err(anyhow!("the metrics have ended")),
    };
    models.stop().await;
    served?;
    refusal.map_or(Ok(()), |reason| bail!(reason))
}

/// Until all is served: the last numbers are worth reading while connections are drained.
async fn serve_metrics(listener: TcpListener, registry: Registry, settings: &ServerSettings) {
    let router = service::metrics::router(registry);
    let _ = serve(listener, router, settings, &Readiness::default(), pending()).await;
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

fn launcher(settings: &Settings) -> ChildLauncher {
    ChildLauncher {
        // The very program that runs, also when a new one has meanwhile been put in its place: both must talk alike.
        program: PathBuf::from("/proc/self/exe"),
        library: settings.library.clone(),
        device: settings.device,
        start_timeout: settings.start_timeout,
    }
}

fn load_settings(settings: &Settings) -> LoadSettings {
    LoadSettings {
        threads: settings.session_threads,
        queue_length: settings.queue_length,
        run_timeout: settings.run_timeout,
    }
}
