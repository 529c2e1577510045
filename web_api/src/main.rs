//! `web_api`: what people talk to. `web_api worker` works on jobs alone; `web_api health` asks a running one whether it is ready.

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
use web_api::app::{App, health_router, health_routes, job_worker, router};
use web_api::help::PROGRAM;
use web_api::settings::Settings;

/// An answer that is computed takes a dozen buffers of some kilobytes, which this one gives out at a fifth of what glibc's takes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let command = match PROGRAM.command(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(ended) => return ended,
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

/// The process that a native start pipes a service into: `LOG_FILE` gets what comes.
fn write_log() -> ExitCode {
    let path = std::env::var_os("LOG_FILE").unwrap_or_default();
    let copied = log_file::copy_stdin(path.as_ref());
    copied.map_or_else(|error| SettingError::new("LOG_FILE", error).report(), |()| ExitCode::SUCCESS)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    error!("{error:#}");
    ExitCode::FAILURE
}

/// What this process does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Answers people, and works on jobs unless `JOB_CONCURRENCY` is 0.
    Front,
    /// Works on jobs alone.
    Worker,
}

async fn run(settings: Settings, role: Role) -> anyhow::Result<()> {
    if role == Role::Worker && settings.redis_url.is_none() {
        return Err(SettingError::new("REDIS_URL", "a worker of its own needs the queue in Redis").into());
    }
    open_files::raise_limit(&settings.server, settings.max_concurrent_requests)?;
    let signalled = shutdown::signal()?;
    let mut registry = Registry::with_prefix("web_api");
    let (app, background) = App::new(&settings, &mut registry)?;
    let routes = if role == Role::Front { router(&app) } else { health_router(&app) };
    let unpublished = metrics::router(registry).merge(health_routes(&app));
    let worker = job_worker(&app, &settings.jobs);

    let server = &settings.server;
    let listener = http_server::listen(server.address).with_context(|| format!("PORT {}", server.address))?;
    let numbers = http_server::listen(server.metrics_address)
        .with_context(|| format!("METRICS_ADDR {}", server.metrics_address))?;
    info!(address = %server.address, app_type = settings.app_type.as_str(), "web_api listens");

    // Kept to the end: what is still to be done when connections have ended is done there.
    let cores = PerCoreRuntimes::start()?;
    let mut tasks = JoinSet::new();
    tasks.spawn(background);
    tasks.spawn(worker.clone().run());
    // Inputs of jobs and open requests have the same time to end.
    let (stopping, drain_timeout) = (worker.clone(), server.drain_timeout);
    let stop = async move {
        signalled.await;
        stopping.stop(drain_timeout);
    };
    let (never_unready, metrics_settings) = (Readiness::default(), server.metrics());
    let drained = tokio::select! {
        drained = http_server::serve_on(&cores, listener, routes, server, &app.readiness, stop) => drained,
        _ = http_server::serve(numbers, unpublished, &metrics_settings, &never_unready, pending()) => bail!("the metrics are served no more"),
        died = tasks.join_next() => bail!("a part that runs in the background has died: {died:?}"),
    };
    worker.ended().await;
    // Also when connections had to be cut: what they were answered is on its way to Redis.
    app.memory.flush().await;
    Ok(drained?)
}
