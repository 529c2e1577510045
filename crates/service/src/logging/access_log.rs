//! Log writer: a bounded in-memory buffer that one thread writes to stderr.
//!
//! Requests never wait for stderr. A stalled reader, such as a full pipe, fills the buffer; further lines are dropped
//! and counted.
//!
//! Access-log lines are buffered for up to [`FLUSH_INTERVAL`] and written together. At tens of thousands of lines per
//! second, a `write(2)` per line would cost as much as serving the request. Every other line wakes the writer thread
//! and waits, for a bounded time, until it is written. It is then on stderr even if the process aborts right after it.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::{Level, Metadata, warn};
use tracing_subscriber::fmt::MakeWriter;

/// Target of access-log lines, for `LOG_LEVEL` (`info,request=warn`). It is part of the interface and independent of
/// the module that logs.
pub(crate) const ACCESS_LOG_TARGET: &str = "request";

/// Time for which access-log lines are buffered.
const FLUSH_INTERVAL: Duration = Duration::from_millis(20);

/// Time for which any other line waits until it is written. After one timeout, no line waits until stderr accepts bytes
/// again.
const WRITE_TIMEOUT: Duration = Duration::from_millis(100);

/// Buffer limit in bytes. Further lines are dropped.
const MAX_BUFFERED_BYTES: usize = 1 << 20;

/// Buffered writer to stderr, for `tracing_subscriber`. See the module documentation.
#[derive(Clone, Debug)]
pub(crate) struct AccessLogWriter(Arc<Shared>);

#[derive(Debug, Default)]
pub(crate) struct Shared {
    buffer: Mutex<Buffer>,
    /// Signals a first line in the buffer, or an urgent one.
    added: Condvar,
    /// Signals that lines were written, or that stderr stalls.
    written: Condvar,
}

#[derive(Debug, Default)]
struct Buffer {
    lines: Vec<u8>,
    dropped: u64,
    /// Whether a line must be written without further buffering.
    is_urgent: bool,
    /// Number of lines added so far.
    added: u64,
    /// Number of lines handed to stderr so far.
    written: u64,
    /// Whether stderr stalls, or the writer thread itself logs. No line waits then.
    is_stalled: bool,
}

impl AccessLogWriter {
    /// Starts the writer thread, which runs until the process exits.
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
    /// Waits for lines and writes the whole buffer.
    fn write_once(&self, to: &mut impl Write) {
        let buffer = self.added.wait_while(self.lock(), |buffer| buffer.lines.is_empty());
        let buffer = buffer.unwrap_or_else(PoisonError::into_inner);
        let collected = self.added.wait_timeout_while(buffer, FLUSH_INTERVAL, |buffer| !buffer.is_urgent);
        let (mut buffer, _) = collected.unwrap_or_else(PoisonError::into_inner);
        let (lines, dropped, added) = (mem::take(&mut buffer.lines), mem::take(&mut buffer.dropped), buffer.added);
        buffer.is_urgent = false;
        drop(buffer);
        // There is nowhere to report a failure.
        let _ = to.write_all(&lines);
        let mut buffer = self.lock();
        buffer.written = added;
        // Prevents a deadlock: the next line comes from this thread.
        buffer.is_stalled = dropped > 0;
        drop(buffer);
        self.written.notify_all();
        if dropped > 0 {
            warn!(dropped, "log lines dropped: stderr was not read in time");
        }
    }

    /// Adds a line to the buffer.
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
        let sequence = buffer.added;
        self.added.notify_one();
        let is_waiting = |buffer: &mut Buffer| buffer.written < sequence && !buffer.is_stalled;
        let waited = self.written.wait_timeout_while(buffer, WRITE_TIMEOUT, is_waiting);
        let (mut buffer, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            buffer.is_stalled = true;
            drop(buffer);
            self.written.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Buffer> {
        // The buffer is consistent after a panic.
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    /// Appends a line. Returns `false` if the buffer is full.
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

/// Writer of one line.
pub(crate) enum LineWriter<'a> {
    /// Buffers the line.
    Buffered(&'a Shared),
    /// Writes the line before it returns.
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

    /// Writer that blocks until each write is received.
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

    /// A log and the receiver of its writes. A write blocks until it is received.
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
    fn lines_beyond_the_buffer_limit_are_dropped_and_counted() {
        let mut buffer = Buffer::default();
        let line = vec![b'x'; MAX_BUFFERED_BYTES / 2];
        let was_added: Vec<bool> = (0..4).map(|_| buffer.add(&line)).collect();
        assert_eq!(was_added, [true, true, false, false]);
        assert_eq!((buffer.lines.len(), buffer.dropped), (MAX_BUFFERED_BYTES, 2));
    }

    #[test]
    fn stalled_reader_blocks_no_line_and_later_gets_all_in_order() {
        let (log, receiver) = log();
        let lines = thread::spawn(move || {
            // Nothing is received meanwhile: the first line waits for its timeout, the others do not wait.
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
    fn only_access_log_lines_are_buffered() {
        let log = AccessLogWriter(Arc::default());
        let is_urgent = |line: fn()| {
            let subscriber = fmt().with_writer(log.clone()).finish();
            log.0.lock().is_urgent = false;
            with_default(subscriber, line);
            log.0.lock().is_urgent
        };
        assert!(!is_urgent(|| tracing::info!(target: ACCESS_LOG_TARGET, "request completed")));
        assert!(is_urgent(|| tracing::info!("something")));
        assert!(is_urgent(|| tracing::error!(target: ACCESS_LOG_TARGET, "handler panicked")));
        let lines = String::from_utf8(log.0.lock().lines.clone()).unwrap();
        let position = |text: &str| lines.find(text).unwrap();
        assert!(
            position("completed") < position("something") && position("something") < position("panicked"),
            "{lines}"
        );
    }

    #[test]
    fn other_lines_are_written_before_the_call_returns() {
        let (log, receiver) = log();
        let reading = thread::spawn(move || receiver.recv().unwrap());
        log.0.write_through(b"now\n");
        assert_eq!(log.0.lock().written, 1);
        assert_eq!(reading.join().unwrap(), b"now\n");
    }
}
