use std::io;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Who runs connections: a thread for each core, with a scheduler of its own, for as long as this is kept.
///
/// Tokio's scheduler of several threads hands tasks from one to the other, and wakes a second thread for each event, to
/// look for more. Where a request takes some ten microseconds, that is a good part of it.
pub struct Cores {
    cores: Vec<Core>,
    stop: CancellationToken,
}

/// One of them.
#[derive(Clone)]
pub(crate) struct Core {
    pub runtime: Handle,
    /// Cloned for each connection.
    pub connections: Arc<()>,
}

impl Cores {
    /// The thread that calls this, which runs a scheduler, and one more for each further core.
    pub fn all() -> io::Result<Self> {
        Self::new(thread::available_parallelism()?.get())
    }

    pub(crate) fn new(count: usize) -> io::Result<Self> {
        let mut cores = Self::current();
        for number in 1..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            cores.cores.push(Core::of(runtime.handle().clone()));
            let stopped = cores.stop.clone();
            let run = move || runtime.block_on(stopped.cancelled());
            thread::Builder::new().name(format!("core {number}")).spawn(run)?;
        }
        Ok(cores)
    }

    /// The scheduler of who calls this, and no other.
    pub fn current() -> Self {
        Self { cores: vec![Core::of(Handle::current())], stop: CancellationToken::new() }
    }

    /// That with the fewest connections.
    pub(crate) fn idlest(&self) -> &Core {
        self.cores.iter().min_by_key(|core| Arc::strong_count(&core.connections)).expect("there is at least one")
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Core {
    fn of(runtime: Handle) -> Self {
        Self { runtime, connections: Arc::default() }
    }
}
