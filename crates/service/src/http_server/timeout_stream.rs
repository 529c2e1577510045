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

/// A client's connection. A client that does not read what it asked for would keep its place: there is an end to that.
pub(crate) struct TimeoutStream {
    stream: Pin<Box<IoTimeoutStream<TcpStream>>>,
    /// Whether several pieces are taken at a time. In HTTP/2 only from the first write on: before that, h2 asks what to do
    /// with messages from 256 bytes to a kilobyte, and copies them between the frames around them if this says no. A call's
    /// answer then leaves in one write instead of two.
    is_vectored: bool,
    /// Whether the client has been too slow to read the response.
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
        // Nothing is flushed before everything has been written.
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
    async fn what_h2_is_told_before_it_writes_is_not_so_afterwards() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (version, at_first) in [(Version::HTTP_11, true), (Version::HTTP_2, false)] {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let mut connection = TimeoutStream::new(stream, version, Duration::from_secs(1), Arc::default());
            assert_eq!(connection.is_write_vectored(), at_first);
            connection.write_all(b"x").await.unwrap();
            assert!(connection.is_write_vectored());
        }
    }
}
