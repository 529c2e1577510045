//! Per-core runtimes: one single-threaded scheduler per core.

use std::cell::Cell;
use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

static CORE_COUNT: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get));

/// Number of cores that are available to this process.
pub fn core_count() -> usize {
    *CORE_COUNT
}

/// Index of the current thread's core, below [`core_count`].
///
/// Shared resources, such as connections and queues, are sharded by it. The thread that completes an operation is then
/// the one that waits for it, and no other thread is woken. Threads of [`PerCoreRuntimes`] have fixed indices. Any
/// other thread, such as one of the blocking pool, gets an index at its first call.
pub fn current_core() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = CORE.get().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed));
    CORE.set(Some(number));
    number % core_count()
}

thread_local!(static CORE: Cell<Option<usize>> = const { Cell::new(None) });

/// Runtimes that serve connections: a thread with a current-thread scheduler for each core. The threads stop when this
/// value is dropped.
///
/// The multi-threaded scheduler of Tokio moves tasks between threads and wakes a second thread for each event, to look
/// for more work. For requests that take some ten microseconds, this costs a considerable share of the time.
pub struct PerCoreRuntimes {
    cores: Vec<CoreRuntime>,
    stop: CancellationToken,
}

/// Runtime of one core.
#[derive(Clone)]
pub(crate) struct CoreRuntime {
    pub runtime: Handle,
    /// Cloned for each connection, so that its reference count is the load.
    pub connections: Arc<()>,
}

impl PerCoreRuntimes {
    /// Uses the calling thread, which must run a scheduler, for the first core and starts a thread for each further
    /// core.
    pub fn start() -> io::Result<Self> {
        Self::new(core_count())
    }

    pub(crate) fn new(count: usize) -> io::Result<Self> {
        let mut runtimes = Self::current();
        CORE.set(Some(0));
        for number in 1..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtimes.cores.push(CoreRuntime::new(runtime.handle().clone()));
            let stop = runtimes.stop.clone();
            let run = move || {
                CORE.set(Some(number));
                runtime.block_on(stop.cancelled());
            };
            thread::Builder::new().name(format!("core {number}")).spawn(run)?;
        }
        Ok(runtimes)
    }

    /// The runtime of the caller alone.
    pub fn current() -> Self {
        Self { cores: vec![CoreRuntime::new(Handle::current())], stop: CancellationToken::new() }
    }

    /// Runtime with the fewest connections.
    pub(crate) fn least_loaded(&self) -> &CoreRuntime {
        self.cores.iter().min_by_key(|core| Arc::strong_count(&core.connections)).expect("there is at least one core")
    }
}

impl Drop for PerCoreRuntimes {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl CoreRuntime {
    fn new(runtime: Handle) -> Self {
        Self { runtime, connections: Arc::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_keeps_its_core_index() {
        let numbers = || [current_core(), current_core()];
        for [first, second] in [numbers(), thread::spawn(numbers).join().unwrap()] {
            assert_eq!(first, second);
            assert!(first < core_count());
        }
    }

    #[tokio::test]
    async fn runtime_threads_have_the_indices_of_their_cores() {
        let cores = PerCoreRuntimes::new(3).unwrap();
        for number in [2, 1, 0] {
            let own = cores.cores[number].runtime.spawn(async { CORE.get() }).await.unwrap();
            assert_eq!(own, Some(number));
        }
    }
}
