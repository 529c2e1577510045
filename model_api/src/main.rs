//! `model_api`: serves a folder of ONNX models on a private port.

use std::process::ExitCode;

use model_api::help::PROGRAM;
use model_api::repository::Repository;
use model_api::run::run;
use model_api::session;
use model_api::settings::{Settings, models_dir};
use service::settings::{ServerSettings, SettingError};
use service::telemetry::LogSettings;
use tracing::error;

fn main() -> ExitCode {
    let ended = match PROGRAM.command(std::env::args_os().skip(1)) {
        Ok(Some("health")) => health(),
        Ok(Some("metrics")) => print_metrics(),
        Ok(Some("models")) => list_models(),
        Ok(Some("session")) => run_session(),
        Ok(_) => serve(),
        Err(ended) => return ended,
    };
    ended.unwrap_or_else(|error| error.report())
}

#[tokio::main]
async fn serve() -> Result<ExitCode, SettingError> {
    let settings = Settings::from_env()?;
    let repository = Repository::new(&settings.models_dir).selecting(settings.models.clone());
    let models = repository.select(&settings.models)?;
    LogSettings::from_env()?.init();
    service::open_files::raise_limit(&settings.server, 0)?;
    if let Err(error) = run(settings, repository, models).await {
        error!("{error:#}");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the service on this machine is ready: a container's health check.
#[tokio::main(flavor = "current_thread")]
async fn health() -> Result<ExitCode, SettingError> {
    let server = ServerSettings::from_env(Settings::PORT, Settings::METRICS_PORT)?;
    Ok(service::health::check(server.health_address()).await)
}

/// The metrics of the service on this machine.
#[tokio::main(flavor = "current_thread")]
async fn print_metrics() -> Result<ExitCode, SettingError> {
    let server = ServerSettings::from_env(Settings::PORT, Settings::METRICS_PORT)?;
    Ok(service::health::print_metrics(server.metrics_address).await)
}

/// The names that `MODEL_NAME` may have; and why what looks like a model is none.
fn list_models() -> Result<ExitCode, SettingError> {
    let found = Repository::new(models_dir()?).find();
    for (name, found) in found.map_err(|error| SettingError::new("MODELS_DIR", format!("cannot be read: {error}")))? {
        match &found.why_none {
            None => println!("{name}"),
            Some(reason) => eprintln!("{name}: {reason}"),
        }
        found.passed_over.iter().for_each(|note| eprintln!("{name}: {note}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// The child process of a running `model_api`.
fn run_session() -> Result<ExitCode, SettingError> {
    LogSettings::from_env()?.init();
    Ok(session::child_main())
}
