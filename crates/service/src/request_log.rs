//! Lines about requests, of which there may be tens of thousands in a second: a write of the kernel's for each would cost as
//! much as answering. They wait a moment for each other in memory, and a thread writes them together. Every other line
//! is written at once, after those that wait, so that the order stays.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::{Level, Metadata, warn};
use tracing_subscriber::fmt::MakeWriter;

/// How long a line waits for others.
const PAUSE: Duration = Duration::from_millis(20);

/// Lines that are waiting, in bytes. Where stderr takes no more of them, further ones are left out: a log that is not read
/// must neither stop the service nor fill its memory.
const MOST_WAITING: usize = 1 << 20;

/// Where [`crate::middleware`] logs what was answered.
const REQUESTS: &str = "service::middleware";

/// Writes to stderr, as the module says.
#[derive(Clone, Debug)]
pub(crate) struct RequestLog(Arc<Shared>);

#[derive(Debug, Default)]
pub(crate) struct Shared {
    waiting: Mutex<Waiting>,
    came: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    left_out: u64,
}

impl RequestLog {
    /// Starts the thread, which stays as long as the process.
    pub fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        thread::spawn(move || of_thread.write_for_ever());
        Self(shared)
    }
}

impl Shared {
    fn write_for_ever(&self) {
        loop {
            let waiting = self.came.wait_while(self.lock(), |waiting| waiting.lines.is_empty());
            drop(waiting.unwrap_or_else(PoisonError::into_inner));
            thread::sleep(PAUSE);
            self.write(b"");
            let left_out = mem::take(&mut self.lock().left_out);
            if left_out > 0 {
                warn!(left_out, "lines about requests are missing: the log was not read in time");
            }
        }
    }

    /// Writes what waits, and then `line`.
    fn write(&self, line: &[u8]) {
        // Locked first, so that nothing overtakes what is being written; requests go on meanwhile.
        let mut stderr = io::stderr().lock();
        let mut lines = mem::take(&mut self.lock().lines);
        lines.extend_from_slice(line);
        // There is nowhere to say that it failed.
        let _ = stderr.write_all(&lines);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in it can be half done in a way that matters.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// `true`: it is the first, and whoever writes has to be woken.
    fn put(&mut self, line: &[u8]) -> bool {
        if self.lines.len() + line.len() > MOST_WAITING {
            self.left_out += 1;
            return false;
        }
        let is_first = self.lines.is_empty();
        self.lines.extend_from_slice(line);
        is_first
    }
}

/// What becomes of one line.
pub(crate) enum Line<'a> {
    /// It waits.
    Waits(&'a Shared),
    /// It is written now.
    Now(&'a Shared),
}

impl<'a> MakeWriter<'a> for RequestLog {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line::Now(&self.0)
    }

    fn make_writer_for(&'a self, line: &Metadata<'_>) -> Line<'a> {
        let waits = line.target() == REQUESTS && *line.level() >= Level::INFO;
        if waits { Line::Waits(&self.0) } else { Line::Now(&self.0) }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self {
            Self::Waits(shared) => {
                if shared.lock().put(line) {
                    shared.came.notify_one();
                }
            }
            Self::Now(shared) => shared.write(line),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_read_in_time_is_left_out_and_counted() {
        let mut waiting = Waiting::default();
        let line = vec![b'x'; MOST_WAITING / 2];
        let first: Vec<bool> = (0..4).map(|_| waiting.put(&line)).collect();
        assert_eq!(first, [true, false, false, false]);
        assert_eq!((waiting.lines.len(), waiting.left_out), (MOST_WAITING, 2));
    }

    #[test]
    fn only_lines_about_requests_wait() {
        use tracing::subscriber::with_default;
        use tracing_subscriber::fmt;

        let log = RequestLog(Arc::default());
        let subscriber = fmt().with_writer(log.clone()).finish();
        with_default(subscriber, || {
            tracing::info!(target: REQUESTS, "answered");
            assert!(!log.0.lock().lines.is_empty());
            tracing::info!("something else");
            assert!(log.0.lock().lines.is_empty(), "written, with what waited before it");
            tracing::error!(target: REQUESTS, "a handler panicked");
            assert!(log.0.lock().lines.is_empty());
        });
    }
}
