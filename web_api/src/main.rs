//! `web_api`: the public service. `web_api worker` works on jobs only; `web_api health` checks the readiness of a running service.

use std::future::pending;
use std::process::ExitCode;

use anyhow::{Context, bail};
use prometheus_client::registry::Registry;
use service::readiness::Readiness;
use service::runtime::PerCoreRuntimes;
use service::settings::SettingError;
use service::telemetry::LogSettings;
use service::{health, http_server, log_file, metrics, open_files, shutdown};
use tokio::task::JoinSet;
use tracing::{error, info};
use web_api::help::PROGRAM;
use web_api::router::{health_router, health_routes, job_worker, router};
use web_api::settings::Settings;
use web_api::state::AppState;

/// mimalloc: a computed result allocates a dozen buffers of some kilobytes, which takes a fifth of the time that glibc's `malloc` takes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let command = match PROGRAM.command(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(exit_code) => return exit_code,
    };
    if command == Some("log") {
        return write_log();
    }
    let (settings, log) = match Settings::from_env().and_then(|settings| Ok((settings, LogSettings::from_env()?))) {
        Ok(settings) => settings,
        Err(error) => return error.report(),
    };
    let role = match command {
        Some("health") => return health::check(settings.server.health_address()).await,
        Some("metrics") => return health::print_metrics(settings.server.metrics_address).await,
        Some("worker") => Role::Worker,
        _ => Role::Front,
    };
    log.init();
    match run(settings, role).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.downcast_ref::<SettingError>().map_or_else(|| failed(&error), SettingError::report),
    }
}

/// Copies standard input to `LOG_FILE`. A native start pipes the output of a service into this process.
fn write_log() -> ExitCode {
    let path = std::env::var_os("LOG_FILE").unwrap_or_default();
    let copied = log_file::copy_stdin(path.as_ref());
    copied.map_or_else(|error| SettingError::new("LOG_FILE", error).report(), |()| ExitCode::SUCCESS)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    error!("{error:#}");
    ExitCode::FAILURE
}

/// Role of this process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Serves the public port, and works on jobs unless `JOB_CONCURRENCY` is 0.
    Front,
    /// Works on jobs only.
    Worker,
}

async fn run(settings: Settings, role: Role) -> anyhow::Result<()> {
    if role == Role::Worker && settings.redis_url.is_none() {
        return Err(SettingError::new("REDIS_URL", "a separate worker needs the job queue in Redis").into());
    }
    open_files::raise_limit(&settings.server, settings.max_concurrent_requests)?;
    let signalled = shutdown::signal()?;
    let mut registry = Registry::with_prefix("web_api");
    let (app, background) = AppState::new(&settings, &mut registry)?;
    let routes = if role == Role::Front { router(&app) } else { health_router(&app) };
    let metrics_routes = metrics::router(registry).merge(health_routes(&app));
    let worker = job_worker(&app, &settings.jobs);

    let server = &settings.server;
    let listener = http_server::listen(server.address).with_context(|| format!("PORT {}", server.address))?;
    let metrics_listener = http_server::listen(server.metrics_address)
        .with_context(|| format!("METRICS_ADDR {}", server.metrics_address))?;
    info!(address = %server.address, app_type = settings.app_type.as_str(), "web_api listens");

    // Alive until the end: tasks on these runtimes still finish their work after the last connection has closed.
    let cores = PerCoreRuntimes::start()?;
    let mut tasks = JoinSet::new();
    tasks.spawn(background);
    tasks.spawn(worker.clone().run());
    // The drain timeout is the same for open requests and for running inputs of jobs.
    let (stopping, drain_timeout) = (worker.clone(), server.drain_timeout);
    let stop = async move {
        signalled.await;
        stopping.stop(drain_timeout);
    };
    let (always_ready, metrics_settings) = (Readiness::default(), server.metrics());
    let drained = tokio::select! {
        drained = http_server::serve_on(&cores, listener, routes, server, &app.readiness, stop) => drained,
        _ = http_server::serve(metrics_listener, metrics_routes, &metrics_settings, &always_ready, pending()) => bail!("the metrics server stopped"),
        ended = tasks.join_next() => bail!("a background task ended: {ended:?}"),
    };
    worker.wait_until_stopped().await;
    // Also where connections were closed after the drain timeout: their results may still be on the way to Redis.
    app.cache.flush().await;
    Ok(drained?)
}
