//! Accept loop: starts a task for each connection on one of the per-core runtimes.

use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::connection::{ConnectionTask, Timeouts};
use super::connection_limit::{ConnectionLimit, ConnectionPermit};
use super::runtime::{CoreRuntime, PerCoreRuntimes};
use crate::peer::Peer;
use crate::settings::ServerSettings;

/// Delay before the next `accept` after an error.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Time for sending a 503 response to a connection over the limit.
const REJECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Accepts connections and starts their tasks.
pub(super) struct Acceptor<'a> {
    runtimes: &'a PerCoreRuntimes,
    app: Router,
    builder: auto::Builder<TokioExecutor>,
    limit: ConnectionLimit,
    timeouts: Timeouts,
    /// All open connections.
    pub open: TaskTracker,
    /// Closes idle connections immediately, and the others after their requests in flight.
    pub stopping: CancellationToken,
}

/// A server that is dropped without shutdown closes its connections too.
impl Drop for Acceptor<'_> {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

impl<'a> Acceptor<'a> {
    pub fn new(runtimes: &'a PerCoreRuntimes, app: Router, settings: &ServerSettings) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().header_read_timeout(settings.header_timeout).max_buf_size(64 << 10);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(128)
            // h2 ends a connection with too many unread small frames, and with it all its streams. The bound depends on
            // the window: a stream full of the smallest messages stays below it.
            .initial_stream_window_size(192 << 10)
            .initial_connection_window_size(2 << 20)
            // Streams that are reset before they are accepted. One more ends the connection with its other streams.
            .max_pending_accept_reset_streams(256)
            .max_header_list_size(16 << 10)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10));
        Self {
            runtimes,
            app,
            builder,
            limit: ConnectionLimit::new(settings.max_connections),
            timeouts: Timeouts {
                header: settings.header_timeout,
                idle: settings.idle_timeout,
                write: settings.body_timeout,
            },
            open: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }
    }

    /// Accepts connections until cancelled. Cancellation loses no connection.
    pub async fn accept(&self, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, address)) => self.start(stream, address.into()),
                // Usually no descriptors are left. Connections in progress release theirs.
                Err(error) => {
                    warn!(%error, "accept failed");
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }

    /// Serves a connection in a task of its own once it holds a permit.
    fn start(&self, stream: TcpStream, peer: Peer) {
        let CoreRuntime { runtime, connections } = self.runtimes.least_loaded().clone();
        let (app, builder, stopping) = (self.app.clone(), self.builder.clone(), self.stopping.clone());
        let task = ConnectionTask { app, builder, stopping, timeouts: self.timeouts };
        let open = self.open.token();
        let serve = move |stream, permit| {
            runtime.spawn(async move {
                task.serve(stream, &permit).await;
                drop((permit, connections, open));
            });
        };
        if let Some(permit) = self.limit.try_acquire(peer) {
            hand_over(stream, permit, serve);
        } else if let Some(waiting) = self.limit.try_queue() {
            let limit = self.limit.clone();
            tokio::spawn(async move {
                match limit.acquire(peer).await {
                    Some(permit) => hand_over(stream, permit, serve),
                    None => reject_over_limit(stream).await,
                }
                drop(waiting);
            });
        }
    }
}

/// Deregisters the stream from this thread's reactor, so that its events wake the thread that serves it.
fn hand_over(stream: TcpStream, permit: ConnectionPermit, serve: impl FnOnce(std::net::TcpStream, ConnectionPermit)) {
    let _ = stream.set_nodelay(true);
    if let Ok(stream) = stream.into_std() {
        serve(stream, permit);
    }
}

/// Sends a 503 response in HTTP/1.1. Reads what the client still sends, so that it receives the response and not a
/// reset.
async fn reject_over_limit(mut stream: TcpStream) {
    const BUSY: &[u8] =
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n";
    let sent = timeout(REJECT_TIMEOUT, async {
        stream.write_all(BUSY).await?;
        stream.shutdown().await?;
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        std::io::Result::Ok(())
    });
    let _ = sent.await;
}
