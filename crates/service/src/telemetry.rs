use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::log_lines::LogLines;
use crate::request_log::RequestLog;
use crate::settings::{SettingError, parse};

/// `LOG_FORMAT`: `human` or `json`; `LOG_LEVEL`: a level, or a filter such as `info,web_api=debug`.
#[derive(Debug)]
pub struct LogSettings {
    json: bool,
    filter: EnvFilter,
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
        let filter = EnvFilter::try_new(&level).map_err(|error| SettingError::new("LOG_LEVEL", error))?;
        Ok(Self { json, filter })
    }

    /// Logs to stderr from here on: stdout belongs to subcommands whose output somebody reads.
    pub fn init(self) {
        let log = RequestLog::start();
        let builder = tracing_subscriber::fmt().with_env_filter(self.filter).with_writer(log).with_target(false);
        if self.json {
            builder.json().flatten_event(true).init();
        } else if std::io::stderr().is_terminal() {
            builder.init();
        } else {
            builder.with_ansi(false).fmt_fields(LogLines).event_format(LogLines).init();
        }
    }
}
