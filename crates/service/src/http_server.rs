use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Version;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::connection_activity::{ConnectionActivity, TrackedService};
use crate::connection_limit::{ConnectionLimit, ConnectionPermit};
use crate::idle_timeout::{HeaderTimer, wait_until_idle};
use crate::inline_wake::InlineWake;
use crate::peer::Peer;
use crate::readiness::Readiness;
use crate::runtime::{CoreRuntime, PerCoreRuntimes};
use crate::settings::ServerSettings;
use crate::timeout_stream::TimeoutStream;

/// What an HTTP/2 connection begins with.
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Acceptor that may wait to be accepted, or as many as the system allows (`net.core.somaxconn`). Whoever comes when it is
/// full is not heard, and tries again a second later; with the 128 that are customary, that befell some of 700 that came at once.
const BACKLOG: u32 = 4096;

/// How long an idle client may take to answer `GOAWAY`.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// The same, where a new connection waits for its permit.
const EVICTION_TIMEOUT: Duration = Duration::from_millis(250);

/// Between two looks at the beginning of a preface: the interval doubles, so that a thousand clients that go no further cost little.
const MIN_PEEK_INTERVAL: Duration = Duration::from_millis(5);
const MAX_PEEK_INTERVAL: Duration = Duration::from_millis(200);

/// The drain took longer than `DRAIN_TIMEOUT_MS`; what was still open has been cut.
#[derive(Debug, thiserror::Error)]
#[error("connections were still busy after {0:?} and have been cut")]
pub struct DrainTimeout(Duration);

/// A socket that listens there.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A new process takes the port over while connections of the last one are still ending.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `app` until `stop` resolves, then ends in the order that loses nothing: unready at once, a lame duck that
/// still accepts, no new connections, what was begun finishes.
///
/// Not `axum::serve`, because that installs no timer: a client that never finishes its head would stay for ever.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    settings: &ServerSettings,
    readiness: &Readiness,
    stop: impl Future<Output = ()>,
) -> Result<(), DrainTimeout> {
    serve_on(&PerCoreRuntimes::current(), listener, app, settings, readiness, stop).await
}

/// [`serve`], where a connection and all that comes of it stay on one of `runtimes`.
pub async fn serve_on(
    runtimes: &PerCoreRuntimes,
    listener: TcpListener,
    app: Router,
    settings: &ServerSettings,
    readiness: &Readiness,
    stop: impl Future<Output = ()>,
) -> Result<(), DrainTimeout> {
    let connections = Acceptor::new(runtimes, app, settings);
    tokio::select! {
        () = connections.accept(&listener) => {}
        () = stop => {}
    }
    let _unready = readiness.hold("stopping");
    let _ = timeout(settings.lame_duck, connections.accept(&listener)).await;
    drop(listener);
    connections.stopping.cancel();
    connections.open.close();
    timeout(settings.drain_timeout, connections.open.wait()).await.map_err(|_| DrainTimeout(settings.drain_timeout))?;
    info!("every connection has ended");
    Ok(())
}

struct Acceptor<'a> {
    runtimes: &'a PerCoreRuntimes,
    app: Router,
    builder: auto::Builder<TokioExecutor>,
    limit: ConnectionLimit,
    timeouts: Timeouts,
    /// Every connection that has not ended.
    open: TaskTracker,
    /// Ends idle connections at once, and the others after their requests.
    stopping: CancellationToken,
}

/// Also a server that is dropped, and not stopped, ends its connections.
impl Drop for Acceptor<'_> {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

impl<'a> Acceptor<'a> {
    fn new(runtimes: &'a PerCoreRuntimes, app: Router, settings: &ServerSettings) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().header_read_timeout(settings.header_timeout).max_buf_size(64 << 10);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(128)
            // A connection with much unread in small pieces is ended, with all that is on it; how much that may be goes by
            // its window. A stream that is full of the smallest questions stays below.
            .initial_stream_window_size(192 << 10)
            .initial_connection_window_size(2 << 20)
            // Calls that are cancelled before they are looked at; one more ends the connection, with the calls that are not.
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

    /// Accepts for ever. Cancelling it loses no connection.
    async fn accept(&self, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, address)) => self.start(stream, address.into()),
                // Out of descriptors, most likely: the connections that hold them end by themselves.
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Serves a connection in a task of its own, once it has a permit.
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

/// Takes the stream out of this thread's events: they are to wake the thread that it is going to live on.
fn hand_over(stream: TcpStream, permit: ConnectionPermit, serve: impl FnOnce(std::net::TcpStream, ConnectionPermit)) {
    let _ = stream.set_nodelay(true);
    if let Ok(stream) = stream.into_std() {
        serve(stream, permit);
    }
}

/// Of one connection.
#[derive(Clone, Copy)]
struct Timeouts {
    /// For a request's header.
    header: Duration,
    /// Between two requests.
    idle: Duration,
    /// For each piece of a response to go.
    write: Duration,
}

/// What serves one connection.
struct ConnectionTask {
    app: Router,
    builder: auto::Builder<TokioExecutor>,
    stopping: CancellationToken,
    timeouts: Timeouts,
}

impl ConnectionTask {
    /// Serves until the client ends the connection, it has been idle for too long, another needs its permit, or the server stops.
    async fn serve(self, stream: std::net::TcpStream, permit: &ConnectionPermit) {
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

/// Says "later" in HTTP/1.1 and reads what the client sends meanwhile, so that it sees the answer and no reset.
async fn reject_over_limit(mut stream: TcpStream) {
    const BUSY: &[u8] =
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n";
    let answered = timeout(Duration::from_secs(1), async {
        stream.write_all(BUSY).await?;
        stream.shutdown().await?;
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        std::io::Result::Ok(())
    });
    let _ = answered.await;
}

#[cfg(test)]
mod tests;
