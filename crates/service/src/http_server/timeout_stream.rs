//! TCP stream with a write timeout.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Version;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_io_timeout::TimeoutStream as IoTimeoutStream;

use super::connection_activity::ConnectionActivity;

/// Stream of a client. The write timeout closes the connection of a client that does not read its response and would
/// otherwise hold its permit.
pub(crate) struct TimeoutStream {
    stream: Pin<Box<IoTimeoutStream<TcpStream>>>,
    /// Whether writes are vectored. In HTTP/2 only from the first write on, because h2 reads this once at the start. If
    /// it is `false`, h2 copies messages from 256 bytes to 1 KiB between the frames around them. A response then leaves
    /// in one write instead of two.
    is_vectored: bool,
    /// Whether a write is pending because the client does not read.
    is_blocked: bool,
    activity: Arc<ConnectionActivity>,
}

impl TimeoutStream {
    pub fn new(
        stream: TcpStream,
        version: Version,
        write_timeout: Duration,
        activity: Arc<ConnectionActivity>,
    ) -> Self {
        let mut stream = Box::pin(IoTimeoutStream::new(stream));
        stream.as_mut().set_write_timeout_pinned(Some(write_timeout));
        Self { stream, is_vectored: version != Version::HTTP_2, is_blocked: false, activity }
    }

    fn track_backpressure(&mut self, polled: &Poll<io::Result<usize>>) {
        if polled.is_pending() && !self.is_blocked {
            self.is_blocked = true;
            self.activity.set_writing(true);
        }
    }
}

impl AsyncRead for TimeoutStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = self.stream.as_mut().poll_read(cx, into);
        if polled.is_ready() {
            self.activity.add_read();
        }
        polled
    }
}

impl AsyncWrite for TimeoutStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.is_vectored = true;
        let polled = self.stream.as_mut().poll_write(cx, bytes);
        self.track_backpressure(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = self.stream.as_mut().poll_write_vectored(cx, pieces);
        self.track_backpressure(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.is_vectored
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.stream.as_mut().poll_flush(cx);
        // A flush completes only after all bytes are written.
        if polled.is_ready() && self.is_blocked {
            self.is_blocked = false;
            self.activity.set_writing(false);
        }
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn http2_stream_is_vectored_only_after_the_first_write() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (version, initially) in [(Version::HTTP_11, true), (Version::HTTP_2, false)] {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let mut connection = TimeoutStream::new(stream, version, Duration::from_secs(1), Arc::default());
            assert_eq!(connection.is_write_vectored(), initially);
            connection.write_all(b"x").await.unwrap();
            assert!(connection.is_write_vectored());
        }
    }
}
