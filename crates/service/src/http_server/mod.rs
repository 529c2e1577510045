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

/// Acceptor that may wait to be accepted, or as many as the system allows (`net.core.somaxconn`). Whoever comes when it is
/// full is not heard, and tries again a second later; with the 128 that are customary, that befell some of 700 that came at once.
const BACKLOG: u32 = 4096;

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

#[cfg(test)]
mod tests;
