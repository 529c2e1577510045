//! Logging subscriber of a service.

use std::io::IsTerminal;

use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

use super::access_log::AccessLogWriter;
use super::text_format::TextFormat;
use crate::settings::{SettingError, parse};

/// Settings `LOG_FORMAT` (`human` or `json`) and `LOG_LEVEL` (a level, or a filter such as `info,web_api=debug`).
#[derive(Debug)]
pub struct LogSettings {
    json: bool,
    /// `Targets` instead of `EnvFilter`, which is evaluated again whenever a span is entered or left.
    filter: Targets,
}

impl LogSettings {
    /// Reads both variables.
    pub fn from_env() -> Result<Self, SettingError> {
        let json = match parse("LOG_FORMAT", "human".to_owned())?.as_str() {
            "human" => false,
            "json" => true,
            other => {
                return Err(SettingError::new("LOG_FORMAT", format!("{other:?} is not a format; use human or json")));
            }
        };
        let level = parse("LOG_LEVEL", "info".to_owned())?;
        let filter = level.parse().map_err(|error: ParseError| SettingError::new("LOG_LEVEL", error))?;
        Ok(Self { json, filter })
    }

    /// Installs the global subscriber, which writes to stderr. Stdout belongs to the output of subcommands.
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
