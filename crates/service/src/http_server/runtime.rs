use std::cell::Cell;
use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

static CORE_COUNT: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get));

/// How many cores there are for this process.
pub fn core_count() -> usize {
    *CORE_COUNT
}

/// The core whose thread asks, below [`core_count`]. What a thread waits for is kept for each of them, wherever that can be: it then
/// wakes this thread, and no other has to pass it on. The threads of [`PerCoreRuntimes`] have their own numbers; any other thread, such
/// as one that hashes or unpacks, shares a number with one of them, and gets it when it first comes here.
pub fn current_core() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = CORE.get().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed));
    CORE.set(Some(number));
    number % core_count()
}

thread_local!(static CORE: Cell<Option<usize>> = const { Cell::new(None) });

/// Who runs connections: a thread for each core, with a scheduler of its own, for as long as this is kept.
///
/// Tokio's scheduler of several threads hands tasks from one to the other, and wakes a second thread for each event, to
/// look for more. Where a request takes some ten microseconds, that is a good part of it.
pub struct PerCoreRuntimes {
    cores: Vec<CoreRuntime>,
    stop: CancellationToken,
}

/// One of them.
#[derive(Clone)]
pub(crate) struct CoreRuntime {
    pub runtime: Handle,
    /// Cloned for each connection.
    pub connections: Arc<()>,
}

impl PerCoreRuntimes {
    /// The thread that calls this, which runs a scheduler, and one more for each further core.
    pub fn start() -> io::Result<Self> {
        Self::new(core_count())
    }

    pub(crate) fn new(count: usize) -> io::Result<Self> {
        let mut cores = Self::current();
        CORE.set(Some(0));
        for number in 1..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            cores.cores.push(CoreRuntime::new(runtime.handle().clone()));
            let stopped = cores.stop.clone();
            let run = move || {
                CORE.set(Some(number));
                runtime.block_on(stopped.cancelled());
            };
            thread::Builder::new().name(format!("core {number}")).spawn(run)?;
        }
        Ok(cores)
    }

    /// The scheduler of who calls this, and no other.
    pub fn current() -> Self {
        Self { cores: vec![CoreRuntime::new(Handle::current())], stop: CancellationToken::new() }
    }

    /// That with the fewest connections.
    pub(crate) fn least_loaded(&self) -> &CoreRuntime {
        self.cores.iter().min_by_key(|core| Arc::strong_count(&core.connections)).expect("there is at least one")
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
    fn a_thread_always_has_the_same_number_and_there_is_a_core_for_it() {
        let numbers = || [current_core(), current_core()];
        for [first, second] in [numbers(), thread::spawn(numbers).join().unwrap()] {
            assert_eq!(first, second);
            assert!(first < core_count());
        }
    }

    #[tokio::test]
    async fn the_threads_of_the_cores_have_the_cores_numbers_whichever_comes_first() {
        let cores = PerCoreRuntimes::new(3).unwrap();
        for number in [2, 1, 0] {
            let own = cores.cores[number].runtime.spawn(async { CORE.get() }).await.unwrap();
            assert_eq!(own, Some(number));
        }
    }
}
