//! HTTP server: listener, accept loop, per-core runtimes, connection limit, timeouts and graceful shutdown.

mod acceptor;
mod connection;
mod connection_activity;
mod connection_limit;
mod idle_timeout;
mod inline_wake;
pub mod open_files;
pub mod runtime;
mod timeout_stream;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::timeout;
use tracing::info;

use acceptor::Acceptor;
use runtime::PerCoreRuntimes;

use crate::lifecycle::readiness::Readiness;
use crate::settings::ServerSettings;

/// Backlog of the listener, capped by `net.core.somaxconn`. If it is full, the kernel drops the SYN and the client
/// retries a second later. A backlog of 128 dropped some of 700 simultaneous connections.
const BACKLOG: u32 = 4096;

/// The drain took longer than `DRAIN_TIMEOUT_MS`, and open connections were closed.
#[derive(Debug, thiserror::Error)]
#[error("draining took longer than {0:?} (DRAIN_TIMEOUT_MS), and open connections were closed")]
pub struct DrainTimeout(Duration);

/// Binds a listener to `address`.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Allows a new process to take over the port while connections of the old one are closing.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `app` until `stop` resolves, then shuts down without losing requests. The service becomes unready, still
/// accepts connections for the lame-duck period, then stops accepting and drains the requests in flight.
///
/// `axum::serve` does not suffice because it installs no timer: a client that never completes its header would hold its
/// connection forever.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    settings: &ServerSettings,
    readiness: &Readiness,
    stop: impl Future<Output = ()>,
) -> Result<(), DrainTimeout> {
    serve_on(&PerCoreRuntimes::current(), listener, app, settings, readiness, stop).await
}

/// Same as [`serve`], but keeps each connection and all its work on one of `runtimes`.
pub async fn serve_on(
    runtimes: &PerCoreRuntimes,
    listener: TcpListener,
    app: Router,
    settings: &ServerSettings,
    readiness: &Readiness,
    stop: impl Future<Output = ()>,
) -> Result<(), DrainTimeout> {
    let acceptor = Acceptor::new(runtimes, app, settings);
    tokio::select! {
        () = acceptor.accept(&listener) => {}
        () = stop => {}
    }
    let _unready = readiness.hold("stopping");
    let _ = timeout(settings.lame_duck, acceptor.accept(&listener)).await;
    drop(listener);
    acceptor.stopping.cancel();
    acceptor.open.close();
    timeout(settings.drain_timeout, acceptor.open.wait()).await.map_err(|_| DrainTimeout(settings.drain_timeout))?;
    info!("all connections closed");
    Ok(())
}

#[cfg(test)]
mod tests;
