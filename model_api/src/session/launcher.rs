//! Interface of sessions: [`Launcher`] starts them, [`Session`] runs the model.

use std::future::{Future, ready};

use open_inference::Tensor;

use super::error::{SessionError, StartError};
use super::info::{SessionConfig, SessionInfo};

/// Memory of a session, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionMemory {
    /// Current use.
    pub used: u64,
    /// What remains of the limit for all sessions.
    pub available: u64,
}

/// Starts sessions: child processes in production, fakes in tests.
pub trait Launcher: Clone + Send + Sync + 'static {
    /// The session type.
    type Session: Session;

    /// Resolves when the session is warm.
    fn launch(
        &self,
        config: &SessionConfig,
    ) -> impl Future<Output = Result<(SessionInfo, Self::Session), StartError>> + Send;
}

/// A loaded model. Dropping it ends it, even during a run.
pub trait Session: Send + 'static {
    /// Runs the model once on the rows of all `requests`, concatenated along the first axis. The requests must have the same
    /// inputs in the same order, equal in everything but the number of rows. When `cancel` resolves first, the run is
    /// cancelled. A session that does not respond to the cancellation is killed. If the future is dropped early, the session
    /// must be dropped as well.
    fn run(
        &mut self,
        requests: &[&[Tensor]],
        cancel: impl Future<Output = ()> + Send,
    ) -> impl Future<Output = Result<Vec<Tensor>, SessionError>> + Send;

    /// Adds a batch bucket: batches of up to `rows` rows that fit no smaller bucket are padded to `rows` rows from now on. Only
    /// for models with independent rows. Rejected if other sessions need the memory. For an early drop of the future the rule
    /// of [`Self::run`] applies. A no-op by default.
    fn add_bucket(&mut self, _rows: usize) -> impl Future<Output = Result<(), SessionError>> + Send {
        ready(Ok(()))
    }

    /// Reads the current memory from the system. `None` if it is not known, which is the default.
    fn memory(&self) -> Option<SessionMemory> {
        None
    }

    /// Sets the size from which growth is measured, bytes. A no-op by default.
    fn set_memory_baseline(&mut self, _bytes: u64) {}

    /// Resolves with the reason when the session has ended by itself. Cancel-safe.
    fn exited(&mut self) -> impl Future<Output = String> + Send;
}
