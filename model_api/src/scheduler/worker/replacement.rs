//! Session replacement: replaces a session whose memory has grown far above its size after warm-up.
//!
//! ONNX Runtime keeps the memory of its largest run. So the worker reads the memory of its session between runs, at most once a
//! second. A replacement starts while the old session continues, if there is memory for both. Otherwise the old session ends
//! first. No request fails in either case.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::session_starter::SessionStarter;
use crate::session::{Launcher, Session, SessionInfo, SessionMemory, StartError};

/// A session is too large above this multiple of its size after warm-up, plus this many bytes.
const GROWTH_FACTOR: u64 = 2;
const GROWTH_BYTES: u64 = 256 << 20;

/// Minimum time between two memory checks of a session.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Minimum time between two replacements. A model that needs the memory for each request would be replaced all the time otherwise.
const REPLACEMENT_INTERVAL: Duration = Duration::from_secs(30);

/// How often to look whether the new session has started.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

type Started<L> = Result<(Arc<SessionInfo>, <L as Launcher>::Session), StartError>;

/// Memory monitor of one session.
pub struct SessionReplacement<L: Launcher> {
    starter: SessionStarter<L>,
    /// The size of the session after warm-up, bytes. `None` if it is not known, and on a GPU.
    baseline: Option<u64>,
    has_run: bool,
    next_check: Instant,
    /// The start of the new session.
    starting: Option<AbortOnDropHandle<Started<L>>>,
}

impl<L: Launcher> SessionReplacement<L> {
    /// Monitors a warm session.
    pub fn new(starter: &SessionStarter<L>, session: &L::Session, session_info: &SessionInfo) -> Self {
        let memory = if session_info.is_on_gpu() { None } else { session.memory() };
        Self {
            starter: starter.clone(),
            baseline: memory.map(|memory| memory.used),
            has_run: false,
            next_check: Instant::now(),
            starting: None,
        }
    }

    /// Monitors a session that has just replaced another one.
    pub fn after_replacement(starter: &SessionStarter<L>, session: &L::Session, session_info: &SessionInfo) -> Self {
        Self { next_check: Instant::now() + REPLACEMENT_INTERVAL, ..Self::new(starter, session, session_info) }
    }

    /// Records a run of the session.
    pub fn record_run(&mut self) {
        self.has_run = true;
    }

    /// Checks the memory of the session if a check is due, and starts a new session if it has grown too large. The error
    /// describes a session that must end first, because there is no memory for both.
    pub fn check(&mut self, session: &L::Session) -> Result<(), String> {
        let Some(baseline) = self.baseline else { return Ok(()) };
        if !self.has_run || self.starting.is_some() || Instant::now() < self.next_check {
            return Ok(());
        }
        self.has_run = false;
        self.next_check = Instant::now() + CHECK_INTERVAL;
        let Some(SessionMemory { used, available }) = session.memory() else { return Ok(()) };
        if used <= baseline.saturating_mul(GROWTH_FACTOR).saturating_add(GROWTH_BYTES) {
            return Ok(());
        }
        let model = &self.starter.config.model;
        info!(model, used_bytes = used, warm_bytes = baseline, "session memory has grown, replacing the session");
        self.starter.metrics.replacements.inc();
        if available < baseline.saturating_mul(GROWTH_FACTOR) {
            return Err(format!("it used {used} bytes of memory, and {baseline} after its warm-up"));
        }
        let starter = self.starter.clone();
        self.starting = Some(AbortOnDropHandle::new(tokio::spawn(async move { starter.start().await })));
        Ok(())
    }

    /// Resolves when a check is due or the new session has started. Cancel-safe.
    pub async fn due(&self) {
        match &self.starting {
            Some(starting) => {
                while !starting.is_finished() {
                    sleep(POLL_INTERVAL).await;
                }
            }
            None if self.has_run && self.baseline.is_some() => sleep_until(self.next_check).await,
            None => std::future::pending().await,
        }
    }

    /// Returns the new session once it is warm. If it did not start, the old one continues.
    pub async fn take_started(&mut self) -> Option<(Arc<SessionInfo>, L::Session)> {
        let starting = self.starting.take_if(|starting| starting.is_finished())?;
        let reason = match starting.await {
            Ok(Ok(started)) => return Some(started),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        warn!(model = self.starter.config.model, reason, "replacement session did not start, keeping the old one");
        (self.has_run, self.next_check) = (true, Instant::now() + REPLACEMENT_INTERVAL);
        None
    }
}
