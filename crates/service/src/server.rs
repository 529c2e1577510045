use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::readiness::Readiness;
use crate::settings::ServerSettings;

/// The drain took longer than `DRAIN_TIMEOUT_MS`; what was still open has been cut.
#[derive(Debug, thiserror::Error)]
#[error("connections were still busy after {0:?} and have been cut")]
pub struct DrainTimeout(Duration);

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
    let connections = Connections::new(app, settings);
    tokio::select! {
        () = connections.accept(&listener) => {}
        () = stop => {}
    }
    let _unready = readiness.hold("stopping");
    let _ = timeout(settings.lame_duck, connections.accept(&listener)).await;
    drop(listener);
    timeout(settings.drain_timeout, connections.graceful.shutdown())
        .await
        .map_err(|_| DrainTimeout(settings.drain_timeout))?;
    info!("every connection has ended");
    Ok(())
}

struct Connections {
    app: Router,
    builder: auto::Builder<TokioExecutor>,
    graceful: GracefulShutdown,
    permits: Arc<Semaphore>,
}

impl Connections {
    fn new(app: Router, settings: &ServerSettings) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(settings.header_timeout).max_buf_size(64 << 10);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(128)
            .max_header_list_size(16 << 10)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10));
        Self {
            app,
            builder,
            graceful: GracefulShutdown::new(),
            permits: Arc::new(Semaphore::new(settings.max_connections)),
        }
    }

    /// Accepts for ever. Cancelling it loses no connection.
    async fn accept(&self, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => self.start(stream),
                // Out of descriptors, most likely: the connections that hold them end by themselves.
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn start(&self, stream: TcpStream) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            tokio::spawn(refuse(stream));
            return;
        };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(self.app.clone());
        let connection = self.builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = self.graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection ended early");
            }
            drop(permit);
        });
    }
}

/// Says "later" in HTTP/1.1 and reads what the client sends meanwhile, so that it sees the answer and no reset.
async fn refuse(mut stream: TcpStream) {
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
