//! Limit of open files (`RLIMIT_NOFILE`).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::connection_limit::MAX_WAITING_CONNECTIONS;
use crate::settings::{ServerSettings, SettingError};

/// Descriptors for everything but connections: listeners, log, files and pipes of child processes.
const OTHER_DESCRIPTORS: u64 = 256;

/// Raises the soft limit of open files to what `MAX_CONNECTIONS` needs. `outgoing` is the number of connections to
/// other services.
///
/// # Errors
///
/// If the hard limit is too low: accepting would fail long before `MAX_CONNECTIONS` is reached.
pub fn raise_limit(settings: &ServerSettings, outgoing: usize) -> Result<(), SettingError> {
    let connections = settings.max_connections.saturating_add(settings.metrics().max_connections);
    let needed =
        connections.saturating_add(2 * MAX_WAITING_CONNECTIONS).saturating_add(outgoing) as u64 + OTHER_DESCRIPTORS;
    match raised(getrlimit(Resource::Nofile), needed) {
        Ok(None) => Ok(()),
        Ok(Some(limit)) => setrlimit(Resource::Nofile, limit).map_err(|error| {
            SettingError::new(
                "MAX_CONNECTIONS",
                format!("the limit of open files cannot be raised to {needed}: {error}"),
            )
        }),
        Err(maximum) => Err(too_low(settings.max_connections, needed, maximum)),
    }
}

/// The limit that allows `needed` descriptors, or `None` if the current one does.
///
/// # Errors
///
/// The hard limit if it is lower.
fn raised(limit: Rlimit, needed: u64) -> Result<Option<Rlimit>, u64> {
    // `None` means unlimited.
    match limit {
        Rlimit { current: None, .. } => Ok(None),
        Rlimit { current: Some(current), .. } if current >= needed => Ok(None),
        Rlimit { maximum: Some(maximum), .. } if maximum < needed => Err(maximum),
        Rlimit { maximum, .. } => Ok(Some(Rlimit { current: Some(needed), maximum })),
    }
}

fn too_low(max_connections: usize, needed: u64, maximum: u64) -> SettingError {
    let reason = format!(
        "{max_connections} connections need {needed} open files, and the hard limit of open files is {maximum}; \
         lower MAX_CONNECTIONS or raise the limit (ulimit -Hn)"
    );
    SettingError::new("MAX_CONNECTIONS", reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limit_is_raised_as_needed_up_to_the_hard_limit() {
        let limit = |current, maximum| Rlimit { current, maximum };
        assert_eq!(raised(limit(Some(1024), Some(4096)), 2000), Ok(Some(limit(Some(2000), Some(4096)))));
        assert_eq!(raised(limit(Some(1024), None), 2000), Ok(Some(limit(Some(2000), None))));
        assert_eq!(raised(limit(Some(2000), Some(2000)), 2000), Ok(None));
        assert_eq!(raised(limit(None, None), 2000), Ok(None));
        assert_eq!(raised(limit(Some(1024), Some(1999)), 2000), Err(1999));
        let error = too_low(1024, 2000, 1999).to_string();
        assert!(error.starts_with("MAX_CONNECTIONS: 1024 connections need 2000 open files"), "{error}");
    }
}
