//! Memory limits of session processes, enforced by polling `/proc`.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::cgroup::kibibytes;

/// How often the memory of a running session is read. Shorter runs are not checked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A session that has grown by no more than this since its warm-up is not killed for the limit on all sessions, bytes.
pub(super) const MIN_GROWTH_BYTES: u64 = 64 << 20;

/// Memory limits of all sessions. Clones share the readings.
#[derive(Clone, Debug)]
pub struct SessionLimits {
    /// One session, bytes.
    per_session: u64,
    /// All sessions together, bytes.
    total: u64,
    /// The latest reading of each process, bytes.
    used: Arc<Mutex<HashMap<u32, u64>>>,
}

/// The limit for which a session was killed, bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitExceeded {
    /// The limit on one session.
    PerSession(u64),
    /// The limit on all sessions together. This session was growing.
    Total(u64),
}

impl std::fmt::Display for LimitExceeded {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PerSession(limit) => {
                write!(formatter, "the model's session used more than {limit} bytes of memory (SESSION_MEMORY_BYTES)")
            }
            Self::Total(limit) => write!(
                formatter,
                "the sessions of all models used more than {limit} bytes of memory together, the limit for all sessions"
            ),
        }
    }
}

impl SessionLimits {
    /// `per_session` bytes for one session, and `total` bytes for all sessions.
    pub fn new(per_session: u64, total: u64) -> Self {
        Self { per_session, total, used: Arc::default() }
    }

    /// No limits.
    pub fn none() -> Self {
        Self::new(u64::MAX, u64::MAX)
    }

    /// What remains for all sessions, bytes.
    pub fn available(&self) -> u64 {
        self.total.saturating_sub(self.sum())
    }

    pub(super) fn sum(&self) -> u64 {
        self.used().values().fold(0, |sum, &used| sum.saturating_add(used))
    }

    pub(super) fn used(&self) -> MutexGuard<'_, HashMap<u32, u64>> {
        // A panic cannot leave the readings inconsistent.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory of one session process. Dropping it removes the process from the sum.
#[derive(Debug)]
pub struct ProcessMemory {
    limits: SessionLimits,
    process: u32,
}

impl ProcessMemory {
    /// Monitors the process with this ID.
    pub fn new(limits: SessionLimits, process: u32) -> Self {
        Self { limits, process }
    }

    /// Reads the current use, bytes. `None` if the process has ended.
    pub fn read(&self) -> Option<u64> {
        let used = anonymous_memory(self.process)?;
        self.limits.used().insert(self.process, used);
        Some(used)
    }

    /// What remains for all sessions, bytes.
    pub fn available(&self) -> u64 {
        self.limits.available()
    }

    /// Resolves when the process exceeds a limit. `baseline` is its size after warm-up, bytes. It is `None` during the start, to
    /// which only the limit on one session applies.
    pub async fn exceeded(&self, baseline: Option<u64>) -> LimitExceeded {
        loop {
            sleep(POLL_INTERVAL).await;
            let Some(used) = self.read() else { continue };
            if used > self.limits.per_session {
                return LimitExceeded::PerSession(self.limits.per_session);
            }
            let has_grown = baseline.is_some_and(|baseline| used > baseline.saturating_add(MIN_GROWTH_BYTES));
            if has_grown && self.limits.sum() > self.limits.total {
                return LimitExceeded::Total(self.limits.total);
            }
        }
    }
}

impl Drop for ProcessMemory {
    fn drop(&mut self) {
        self.limits.used().remove(&self.process);
    }
}

/// Anonymous memory of a process, bytes. Pages of files and libraries do not count: they are shared, and the kernel can reclaim
/// them.
fn anonymous_memory(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    Some(kibibytes(&status, "RssAnon:")? << 10)
}
