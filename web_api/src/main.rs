//! `web_api`: what people talk to. `web_api health` asks a running one whether it is ready.

use std::future::pending;
use std::process::ExitCode;

use anyhow::{Context, bail};
use prometheus_client::registry::Registry;
use service::readiness::Readiness;
use service::settings::SettingError;
use service::telemetry::LogSettings;
use service::{health, metrics, server, shutdown};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::{error, info};
use web_api::app::{App, router};
use web_api::settings::Settings;

/// An answer that is computed takes a dozen buffers of some kilobytes, which this one gives out at a fifth of what glibc's takes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let (settings, log) = match Settings::from_env().and_then(|settings| Ok((settings, LogSettings::from_env()?))) {
        Ok(settings) => settings,
        Err(error) => return error.report(),
    };
    if std::env::args().nth(1).as_deref() == Some("health") {
        return health::check(settings.server.address).await;
    }
    log.init();
    match run(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.downcast_ref::<SettingError>().map_or_else(|| failed(&error), SettingError::report),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    error!("{error:#}");
    ExitCode::FAILURE
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    let stop = shutdown::signalled()?;
    let mut registry = Registry::with_prefix("web_api");
    let (app, background) = App::new(&settings, &mut registry)?;
    let routes = router(&app);

    let server = &settings.server;
    let listener = TcpListener::bind(server.address).await.with_context(|| format!("PORT {}", server.address))?;
    let numbers = TcpListener::bind(server.metrics_address)
        .await
        .with_context(|| format!("METRICS_ADDR {}", server.metrics_address))?;
    info!(address = %server.address, app_type = settings.app_type.as_str(), "web_api listens");

    let mut tasks = JoinSet::new();
    tasks.spawn(background);
    let never_unready = Readiness::default();
    let drained = tokio::select! {
        drained = server::serve(listener, routes, server, &app.readiness, stop) => drained,
        _ = server::serve(numbers, metrics::router(registry), server, &never_unready, pending()) => bail!("the metrics are served no more"),
        died = tasks.join_next() => bail!("a part that runs in the background has died: {died:?}"),
    };
    // Also when connections had to be cut: what they were answered is on its way to Redis.
    app.memory.flush().await;
    Ok(drained?)
}
