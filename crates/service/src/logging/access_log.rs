//! Log writer: a bounded buffer in memory that one thread writes to stderr.
//!
//! No request waits for stderr. A stalled reader (a full pipe, a stopped terminal) fills the buffer, and further lines are
//! dropped and counted. Lines about requests stay in the buffer for a moment, so that one `write` takes many of them: there may
//! be tens of thousands in a second. Every other line wakes the thread at once and waits a bounded time until it is written, so
//! that it is there even if the process aborts right after it.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::{Level, Metadata, warn};
use tracing_subscriber::fmt::MakeWriter;

/// The target of lines about requests, for `LOG_LEVEL` (`info,request=warn`) and for this module. The name is an interface: it
/// does not follow the module that logs them.
pub(crate) const ACCESS_LOG_TARGET: &str = "request";

/// How long lines about requests are collected before they are written.
const FLUSH_INTERVAL: Duration = Duration::from_millis(20);

/// How long another line waits until it is written. After one such timeout no line waits until stderr takes bytes again.
const WRITE_TIMEOUT: Duration = Duration::from_millis(100);

/// Bytes of lines that are not yet written. Further lines are dropped.
const MAX_BUFFERED_BYTES: usize = 1 << 20;

/// Writes to stderr, as the module says.
#[derive(Clone, Debug)]
pub(crate) struct AccessLogWriter(Arc<Shared>);

#[derive(Debug, Default)]
pub(crate) struct Shared {
    buffer: Mutex<Buffer>,
    /// There is a line to write, or one that must be written now.
    added: Condvar,
    /// Lines were written, or are not waited for any more.
    written: Condvar,
}

#[derive(Debug, Default)]
struct Buffer {
    lines: Vec<u8>,
    dropped: u64,
    /// One of the lines must not be collected any longer.
    is_urgent: bool,
    /// Lines that were ever added to the buffer.
    added: u64,
    /// Of those the ones that have been handed to stderr.
    written: u64,
    /// Stderr takes nothing, or the writing thread itself logs: no line waits.
    is_stalled: bool,
}

impl AccessLogWriter {
    /// Starts the thread, which lives as long as the process.
    pub fn start() -> Self {
        let log = Self(Arc::default());
        let shared = Arc::clone(&log.0);
        thread::spawn(move || {
            loop {
                shared.write_once(&mut io::stderr());
            }
        });
        log
    }
}

impl Shared {
    /// Waits for lines and writes those that there are.
    fn write_once(&self, to: &mut impl Write) {
        let buffer = self.added.wait_while(self.lock(), |buffer| buffer.lines.is_empty());
        let buffer = buffer.unwrap_or_else(PoisonError::into_inner);
        let collected = self.added.wait_timeout_while(buffer, FLUSH_INTERVAL, |buffer| !buffer.is_urgent);
        let (mut buffer, _) = collected.unwrap_or_else(PoisonError::into_inner);
        let (lines, dropped, added) = (mem::take(&mut buffer.lines), mem::take(&mut buffer.dropped), buffer.added);
        buffer.is_urgent = false;
        drop(buffer);
        // A failure cannot be reported anywhere.
        let _ = to.write_all(&lines);
        let mut buffer = self.lock();
        buffer.written = added;
        // This thread must not wait for itself when it logs.
        buffer.is_stalled = dropped > 0;
        drop(buffer);
        self.written.notify_all();
        if dropped > 0 {
            warn!(dropped, "log lines are missing: stderr was not read in time");
        }
    }

    /// Adds a line that may wait for others.
    fn buffer_line(&self, line: &[u8]) {
        let mut buffer = self.lock();
        let is_first = buffer.lines.is_empty();
        if buffer.add(line) && is_first {
            self.added.notify_one();
        }
    }

    /// Adds a line and waits until it is written, at most [`WRITE_TIMEOUT`].
    fn write_through(&self, line: &[u8]) {
        let mut buffer = self.lock();
        if !buffer.add(line) {
            return;
        }
        buffer.is_urgent = true;
        let place = buffer.added;
        self.added.notify_one();
        let is_waiting = |buffer: &mut Buffer| buffer.written < place && !buffer.is_stalled;
        let waited = self.written.wait_timeout_while(buffer, WRITE_TIMEOUT, is_waiting);
        let (mut buffer, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            buffer.is_stalled = true;
            drop(buffer);
            self.written.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Buffer> {
        // A panic leaves nothing half done in it that matters.
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    /// Whether there was room.
    fn add(&mut self, line: &[u8]) -> bool {
        if self.lines.len() + line.len() > MAX_BUFFERED_BYTES {
            self.dropped += 1;
            return false;
        }
        self.lines.extend_from_slice(line);
        self.added += 1;
        true
    }
}

/// How one line is written.
pub(crate) enum LineWriter<'a> {
    /// With others, a moment later.
    Buffered(&'a Shared),
    /// At once.
    Through(&'a Shared),
}

impl<'a> MakeWriter<'a> for AccessLogWriter {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter::Through(&self.0)
    }

    fn make_writer_for(&'a self, line: &Metadata<'_>) -> LineWriter<'a> {
        let is_buffered = line.target() == ACCESS_LOG_TARGET && *line.level() >= Level::INFO;
        if is_buffered { LineWriter::Buffered(&self.0) } else { LineWriter::Through(&self.0) }
    }
}

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self {
            Self::Buffered(shared) => shared.buffer_line(line),
            Self::Through(shared) => shared.write_through(line),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tracing::subscriber::with_default;
    use tracing_subscriber::fmt;

    use super::*;

    /// A writer whose writes last until they are received.
    struct Reader(mpsc::SyncSender<Vec<u8>>);

    impl Write for Reader {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            self.0.send(lines.to_vec()).map_err(io::Error::other)?;
            Ok(lines.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A log, and where each of its writes arrives. A write lasts until it is received.
    fn log() -> (AccessLogWriter, mpsc::Receiver<Vec<u8>>) {
        let log = AccessLogWriter(Arc::default());
        let (sender, receiver) = mpsc::sync_channel(0);
        let (shared, mut to) = (Arc::clone(&log.0), Reader(sender));
        thread::spawn(move || {
            loop {
                shared.write_once(&mut to);
            }
        });
        (log, receiver)
    }

    #[test]
    fn lines_beyond_the_bound_are_dropped_and_counted() {
        let mut buffer = Buffer::default();
        let line = vec![b'x'; MAX_BUFFERED_BYTES / 2];
        let had_room: Vec<bool> = (0..4).map(|_| buffer.add(&line)).collect();
        assert_eq!(had_room, [true, true, false, false]);
        assert_eq!((buffer.lines.len(), buffer.dropped), (MAX_BUFFERED_BYTES, 2));
    }

    #[test]
    fn a_stalled_reader_stalls_no_line_and_gets_them_in_order_later() {
        let (log, receiver) = log();
        let lines = thread::spawn(move || {
            // Nothing is received meanwhile: the first of these waits for its timeout, the others not at all.
            (0..1000).for_each(|number| log.0.write_through(format!("{number}\n").as_bytes()));
            log.0.buffer_line(b"of a request\n");
        });
        lines.join().unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"of a request\n") {
            read.extend(receiver.recv().unwrap());
        }
        let read = String::from_utf8(read).unwrap();
        let mut expected: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        expected.push("of a request".to_owned());
        assert_eq!(read.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn only_lines_about_requests_are_collected() {
        let log = AccessLogWriter(Arc::default());
        let is_urgent = |line: fn()| {
            let subscriber = fmt().with_writer(log.clone()).finish();
            log.0.lock().is_urgent = false;
            with_default(subscriber, line);
            log.0.lock().is_urgent
        };
        assert!(!is_urgent(|| tracing::info!(target: ACCESS_LOG_TARGET, "answered")));
        assert!(is_urgent(|| tracing::info!("something else")));
        assert!(is_urgent(|| tracing::error!(target: ACCESS_LOG_TARGET, "a handler panicked")));
        let lines = String::from_utf8(log.0.lock().lines.clone()).unwrap();
        let place = |words: &str| lines.find(words).unwrap();
        assert!(place("answered") < place("something else") && place("something else") < place("panicked"), "{lines}");
    }

    #[test]
    fn a_line_is_written_when_its_call_returns() {
        let (log, receiver) = log();
        let reading = thread::spawn(move || receiver.recv().unwrap());
        log.0.write_through(b"now\n");
        assert_eq!(log.0.lock().written, 1);
        assert_eq!(reading.join().unwrap(), b"now\n");
    }
}
