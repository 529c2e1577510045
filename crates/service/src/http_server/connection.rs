//! Task of one connection: protocol detection, timeouts and shutdown.

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Version;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::connection_activity::{ConnectionActivity, TrackedService};
use super::connection_limit::ConnectionPermit;
use super::idle_timeout::{HeaderTimer, wait_until_idle};
use super::inline_wake::InlineWake;
use super::timeout_stream::TimeoutStream;

/// Connection preface of HTTP/2 (RFC 9113 §3.4).
pub(super) const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Time for which an idle client may respond to `GOAWAY`.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// The same for a connection that is evicted in favour of a new one.
const EVICTION_TIMEOUT: Duration = Duration::from_millis(250);

/// Interval between two peeks at an incomplete preface. It doubles, so that a thousand stalled clients cost little.
const MIN_PEEK_INTERVAL: Duration = Duration::from_millis(5);
const MAX_PEEK_INTERVAL: Duration = Duration::from_millis(200);

/// Timeouts of one connection.
#[derive(Clone, Copy)]
pub(super) struct Timeouts {
    /// Receiving a request header.
    pub header: Duration,
    /// Time between two requests.
    pub idle: Duration,
    /// Each write of a response.
    pub write: Duration,
}

/// Everything that serves one connection.
pub(super) struct ConnectionTask {
    pub app: Router,
    pub builder: auto::Builder<TokioExecutor>,
    pub stopping: CancellationToken,
    pub timeouts: Timeouts,
}

impl ConnectionTask {
    /// Serves until the client closes the connection, it is idle for too long, it is evicted, or the server stops.
    pub async fn serve(self, stream: std::net::TcpStream, permit: &ConnectionPermit) {
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        let activity = permit.activity();
        let version = tokio::select! {
            biased;
            version = timeout(self.timeouts.header, sniff_protocol(&stream)) => version.unwrap_or(None),
            () = self.stopping.cancelled() => None,
            () = activity.evicted() => None,
        };
        if let Some(version) = version {
            InlineWake::new(self.serve_requests(stream, version, Arc::clone(activity))).await;
        }
    }

    /// Serves requests. In HTTP/1, hyper's header timer detects an idle connection. HTTP/2 has no such timer: without a
    /// request for the idle timeout, the server sends `GOAWAY` and finishes open streams.
    async fn serve_requests(self, stream: TcpStream, version: Version, activity: Arc<ConnectionActivity>) {
        let Self { app, mut builder, stopping, timeouts } = self;
        builder.http1().timer(HeaderTimer::new(Arc::clone(&activity), timeouts.idle, timeouts.header));
        let stream = TokioIo::new(TimeoutStream::new(stream, version, timeouts.write, Arc::clone(&activity)));
        let mut connection = pin!(builder.serve_connection(stream, TrackedService::new(app, Arc::clone(&activity))));
        let idle = async {
            match version {
                Version::HTTP_2 => wait_until_idle(&activity, timeouts.idle).await,
                _ => pending().await,
            }
        };
        let ended = tokio::select! {
            biased;
            ended = &mut connection => ended,
            () = stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = idle => {
                connection.as_mut().graceful_shutdown();
                close_gracefully(connection, &activity, GOAWAY_TIMEOUT).await
            }
            () = activity.evicted() => {
                connection.as_mut().graceful_shutdown();
                // A client that sent no request has nothing to lose.
                let grace = if activity.requests() == 0 { Duration::ZERO } else { EVICTION_TIMEOUT };
                close_gracefully(connection, &activity, grace).await
            }
        };
        if let Err(error) = ended {
            debug!(%error, "connection ended early");
        }
    }
}

/// Waits for the end of a connection in graceful shutdown. A client that does not respond within `grace` is cut off
/// unless it has a request in flight.
async fn close_gracefully<E>(
    mut connection: impl Future<Output = Result<(), E>> + Unpin,
    activity: &ConnectionActivity,
    mut grace: Duration,
) -> Result<(), E> {
    loop {
        match timeout(grace, &mut connection).await {
            Ok(ended) => return ended,
            Err(_) if activity.is_idle() => return Ok(()),
            Err(_) => grace = GOAWAY_TIMEOUT,
        }
    }
}

/// Peeks at the first bytes until they distinguish HTTP/1 from HTTP/2. `None` if the client closes the connection. The
/// builder detects the protocol as well, but without a timeout: a silent client would hold its permit forever.
async fn sniff_protocol(stream: &TcpStream) -> Option<Version> {
    let mut bytes = [0; HTTP2_PREFACE.len()];
    let mut interval = MIN_PEEK_INTERVAL;
    loop {
        match stream.peek(&mut bytes).await {
            Ok(0) | Err(_) => return None,
            Ok(_) if bytes == *HTTP2_PREFACE => return Some(Version::HTTP_2),
            Ok(length) if !HTTP2_PREFACE.starts_with(&bytes[..length]) => return Some(Version::HTTP_11),
            // `peek` returns the same bytes immediately, so there is no event to wait for.
            Ok(_) => {
                sleep(interval).await;
                interval = (interval * 2).min(MAX_PEEK_INTERVAL);
            }
        }
    }
}
