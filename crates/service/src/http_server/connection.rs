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

/// What an HTTP/2 connection begins with.
pub(super) const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long an idle client may take to answer `GOAWAY`.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// The same, where a new connection waits for its permit.
const EVICTION_TIMEOUT: Duration = Duration::from_millis(250);

/// Between two looks at the beginning of a preface: the interval doubles, so that a thousand clients that go no further cost little.
const MIN_PEEK_INTERVAL: Duration = Duration::from_millis(5);
const MAX_PEEK_INTERVAL: Duration = Duration::from_millis(200);

/// Of one connection.
#[derive(Clone, Copy)]
pub(super) struct Timeouts {
    /// For a request's header.
    pub header: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// For each piece of a response to go.
    pub write: Duration,
}

/// What serves one connection.
pub(super) struct ConnectionTask {
    pub app: Router,
    pub builder: auto::Builder<TokioExecutor>,
    pub stopping: CancellationToken,
    pub timeouts: Timeouts,
}

impl ConnectionTask {
    /// Serves until the client ends the connection, it has been idle for too long, another needs its permit, or the server stops.
    pub async fn serve(self, stream: std::net::TcpStream, permit: &ConnectionPermit) {
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        let activity = permit.activity();
        let begun = tokio::select! {
            biased;
            begun = timeout(self.timeouts.header, sniff_protocol(&stream)) => begun.unwrap_or(None),
            () = self.stopping.cancelled() => None,
            () = activity.evicted() => None,
        };
        if let Some(version) = begun {
            InlineWake::new(self.serve_requests(stream, version, Arc::clone(activity))).await;
        }
    }

    /// HTTP/1 is idle between two requests, which hyper's header timer sees. HTTP/2 has no such timer: where no request arrives
    /// for the idle timeout, the client is told to open another connection for its next (`GOAWAY`), and open streams go on.
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
                // A client without a single request has nothing to lose.
                let grace = if activity.requests() == 0 { Duration::ZERO } else { EVICTION_TIMEOUT };
                close_gracefully(connection, &activity, grace).await
            }
        };
        if let Err(error) = ended {
            debug!(%error, "a connection ended early");
        }
    }
}

/// Waits for the end of a connection that has been told to end. A client that does not answer is cut off after `grace`, unless
/// a request of its is in flight.
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

/// Waits until the client has said enough to tell HTTP/1 from HTTP/2, and takes none of it. The builder would wait for
/// the same, but without a timer: a client that says nothing would keep its permit for ever. `None`: it has gone.
async fn sniff_protocol(stream: &TcpStream) -> Option<Version> {
    let mut said = [0; HTTP2_PREFACE.len()];
    let mut pause = MIN_PEEK_INTERVAL;
    loop {
        match stream.peek(&mut said).await {
            Ok(0) | Err(_) => return None,
            Ok(_) if said == *HTTP2_PREFACE => return Some(Version::HTTP_2),
            Ok(length) if !HTTP2_PREFACE.starts_with(&said[..length]) => return Some(Version::HTTP_11),
            // Looking again shows the same bytes at once, so there is nothing to wait for but time.
            Ok(_) => {
                sleep(pause).await;
                pause = (pause * 2).min(MAX_PEEK_INTERVAL);
            }
        }
    }
}
