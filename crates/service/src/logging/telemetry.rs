use std::io::IsTerminal;

use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

use super::access_log::AccessLogWriter;
use super::text_format::TextFormat;
use crate::settings::{SettingError, parse};

/// `LOG_FORMAT`: `human` or `json`; `LOG_LEVEL`: a level, or a filter such as `info,web_api=debug`.
#[derive(Debug)]
pub struct LogSettings {
    json: bool,
    /// Not an `EnvFilter`, which can do more: it is asked again whenever a request's span is entered or left.
    filter: Targets,
}

impl LogSettings {
    /// Reads the two variables.
    pub fn from_env() -> Result<Self, SettingError> {
        let json = match parse("LOG_FORMAT", "human".to_owned())?.as_str() {
            "human" => false,
            "json" => true,
            other => return Err(SettingError::new("LOG_FORMAT", format!("{other:?} is neither human nor json"))),
        };
        let level = parse("LOG_LEVEL", "info".to_owned())?;
        let filter = level.parse().map_err(|error: ParseError| SettingError::new("LOG_LEVEL", error))?;
        Ok(Self { json, filter })
    }

    /// Logs to stderr from here on: stdout belongs to subcommands whose output somebody reads.
    pub fn init(self) {
        let registry = registry().with(self.filter);
        let layer = fmt::layer().with_writer(AccessLogWriter::start()).with_target(false);
        if self.json {
            registry.with(layer.json().flatten_event(true)).init();
        } else if std::io::stderr().is_terminal() {
            registry.with(layer).init();
        } else {
            registry.with(layer.with_ansi(false).fmt_fields(TextFormat).event_format(TextFormat)).init();
        }
    }
}
