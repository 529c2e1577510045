//! Replacement of a session whose memory has grown far above its size after warm-up.
//!
//! ONNX Runtime keeps the memory of its largest run. So between two runs, and once a second at most, the memory of the
//! session is read. One that is too large is replaced: the new session starts while the old one goes on, where there is
//! room for both. No request fails for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::starter::Starter;
use crate::session::{Hello, Launcher, Session, SessionMemory, StartError};

/// A session is too large above so many times its size after warm-up, and so many bytes more.
const TIMES_WARM: u64 = 2;
const SLACK_BYTES: u64 = 256 << 20;

/// Time between two looks at the memory of a session that has run.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Least time between two replacements: a model that needs so much for each request is not started all the time.
const REPLACEMENT_INTERVAL: Duration = Duration::from_secs(30);

/// Time between two looks at a session that is being started.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

type Started<L> = Result<(Arc<Hello>, <L as Launcher>::Session), StartError>;

/// Looks at the memory of one session.
pub struct Renewal<L: Launcher> {
    starter: Starter<L>,
    /// The session's size after warm-up, bytes; `None` where it is not known, and on a card.
    warm: Option<u64>,
    has_run: bool,
    next_look: Instant,
    /// The session that is to take over.
    starting: Option<AbortOnDropHandle<Started<L>>>,
}

impl<L: Launcher> Renewal<L> {
    /// Of a session that is warm.
    pub fn of(starter: &Starter<L>, session: &L::Session, hello: &Hello) -> Self {
        let memory = if hello.is_on_card() { None } else { session.memory() };
        Self {
            starter: starter.clone(),
            warm: memory.map(|memory| memory.used),
            has_run: false,
            next_look: Instant::now(),
            starting: None,
        }
    }

    /// The same, of a session that has just taken over.
    pub fn again(starter: &Starter<L>, session: &L::Session, hello: &Hello) -> Self {
        Self { next_look: Instant::now() + REPLACEMENT_INTERVAL, ..Self::of(starter, session, hello) }
    }

    /// The session has run.
    pub fn ran(&mut self) {
        self.has_run = true;
    }

    /// Looks at the session, if it is time to, and starts another one where it has grown too large. The error says how large it
    /// is, where there is no room for both: it must end first.
    pub fn look(&mut self, session: &L::Session) -> Result<(), String> {
        let Some(warm) = self.warm else { return Ok(()) };
        if !self.has_run || self.starting.is_some() || Instant::now() < self.next_look {
            return Ok(());
        }
        self.has_run = false;
        self.next_look = Instant::now() + LOOK_INTERVAL;
        let Some(SessionMemory { used, room }) = session.memory() else { return Ok(()) };
        if used <= warm.saturating_mul(TIMES_WARM).saturating_add(SLACK_BYTES) {
            return Ok(());
        }
        let model = &self.starter.blueprint.model;
        info!(model, used_bytes = used, warm_bytes = warm, "a session is replaced because its memory has grown");
        self.starter.meters.replacements.inc();
        if room < warm.saturating_mul(TIMES_WARM) {
            return Err(format!("it used {used} bytes of memory, and {warm} after its warm-up"));
        }
        let starter = self.starter.clone();
        self.starting = Some(AbortOnDropHandle::new(tokio::spawn(async move { starter.start().await })));
        Ok(())
    }

    /// Resolves when it is time to look, or when the next session is there. Cancel-safe.
    pub async fn due(&self) {
        match &self.starting {
            Some(starting) => {
                while !starting.is_finished() {
                    sleep(POLL_INTERVAL).await;
                }
            }
            None if self.has_run && self.warm.is_some() => sleep_until(self.next_look).await,
            None => std::future::pending().await,
        }
    }

    /// The next session, once it is warm. Where it did not start, the old one goes on.
    pub async fn started(&mut self) -> Option<(Arc<Hello>, L::Session)> {
        let starting = self.starting.take_if(|starting| starting.is_finished())?;
        let reason = match starting.await {
            Ok(Ok(started)) => return Some(started),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        warn!(model = self.starter.blueprint.model, reason, "a session that is to take over did not start");
        (self.has_run, self.next_look) = (true, Instant::now() + REPLACEMENT_INTERVAL);
        None
    }
}
