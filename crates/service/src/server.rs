use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Version;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::at_once::AtOnce;
use crate::connection::Connection;
use crate::cores::{Core, Cores};
use crate::readiness::Readiness;
use crate::settings::ServerSettings;

/// What an HTTP/2 connection begins with.
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Connections that may wait to be accepted, or as many as the system allows (`net.core.somaxconn`). Whoever comes when it is
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
    serve_on(&Cores::current(), listener, app, settings, readiness, stop).await
}

/// [`serve`], where a connection and all that comes of it stay on one of `cores`.
pub async fn serve_on(
    cores: &Cores,
    listener: TcpListener,
    app: Router,
    settings: &ServerSettings,
    readiness: &Readiness,
    stop: impl Future<Output = ()>,
) -> Result<(), DrainTimeout> {
    let connections = Connections::new(cores, app, settings);
    tokio::select! {
        () = connections.accept(&listener) => {}
        () = stop => {}
    }
    let _unready = readiness.hold("stopping");
    let _ = timeout(settings.lame_duck, connections.accept(&listener)).await;
    drop(listener);
    connections.stopping.cancel();
    timeout(settings.drain_timeout, connections.graceful.shutdown())
        .await
        .map_err(|_| DrainTimeout(settings.drain_timeout))?;
    info!("every connection has ended");
    Ok(())
}

struct Connections<'a> {
    cores: &'a Cores,
    app: Router,
    builder: auto::Builder<TokioExecutor>,
    graceful: GracefulShutdown,
    permits: Arc<Semaphore>,
    header_timeout: Duration,
    write_timeout: Duration,
    /// Ends the connections that have not said anything yet; `graceful` ends the others.
    stopping: CancellationToken,
}

impl<'a> Connections<'a> {
    fn new(cores: &'a Cores, app: Router, settings: &ServerSettings) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(settings.header_timeout).max_buf_size(64 << 10);
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
            cores,
            app,
            builder,
            graceful: GracefulShutdown::new(),
            permits: Arc::new(Semaphore::new(settings.max_connections)),
            header_timeout: settings.header_timeout,
            write_timeout: settings.body_timeout,
            stopping: CancellationToken::new(),
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
        // Its events are to wake the thread that it is going to live on.
        let Ok(stream) = stream.into_std() else { return };
        let Core { runtime, connections } = self.cores.idlest().clone();
        let service = TowerToHyperService::new(self.app.clone());
        let (builder, watcher) = (self.builder.clone(), self.graceful.watcher());
        let (header_timeout, write_timeout) = (self.header_timeout, self.write_timeout);
        let stopping = self.stopping.clone();
        runtime.spawn(async move {
            let Ok(stream) = TcpStream::from_std(stream) else { return };
            let begun = tokio::select! {
                biased;
                begun = timeout(header_timeout, has_begun(&stream)) => begun.unwrap_or(None),
                () = stopping.cancelled() => None,
            };
            if let Some(version) = begun {
                let stream = TokioIo::new(Connection::new(stream, version, write_timeout));
                if let Err(error) = AtOnce::new(watcher.watch(builder.serve_connection(stream, service))).await {
                    debug!(%error, "a connection ended early");
                }
            }
            drop((permit, connections));
        });
    }
}

/// Waits until the client has said enough to tell HTTP/1 from HTTP/2, and takes none of it. The builder would wait for
/// the same, but without a timer: a client that says nothing would keep its place for ever. `None`: it has gone.
async fn has_begun(stream: &TcpStream) -> Option<Version> {
    let mut said = [0; HTTP2_PREFACE.len()];
    loop {
        match stream.peek(&mut said).await {
            Ok(0) | Err(_) => return None,
            Ok(_) if said == *HTTP2_PREFACE => return Some(Version::HTTP_2),
            Ok(length) if !HTTP2_PREFACE.starts_with(&said[..length]) => return Some(Version::HTTP_11),
            // Looking again shows the same bytes at once, so there is nothing to wait for but time.
            Ok(_) => sleep(Duration::from_millis(5)).await,
        }
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Instant;

    use axum::routing::get;
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::*;

    const HEADER_TIMEOUT: Duration = Duration::from_millis(300);
    const WRITE_TIMEOUT: Duration = Duration::from_millis(300);
    const LARGE: usize = 64 << 20;
    /// `GET /slow`, as HTTP/2 has it.
    const SLOW: &[u8] = b"\x82\x86\x04\x05/slow";
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    struct Server {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        task: JoinHandle<Result<(), DrainTimeout>>,
    }

    fn start(header_timeout: Duration) -> Server {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let settings = ServerSettings {
            header_timeout,
            body_timeout: WRITE_TIMEOUT,
            lame_duck: Duration::ZERO,
            drain_timeout: Duration::from_secs(5),
            ..ServerSettings::from_env(0, 0).unwrap()
        };
        let (stop, stopped) = oneshot::channel();
        let slow = get(|| async {
            sleep(Duration::from_millis(500)).await;
            "done"
        });
        let app = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/slow", slow)
            .route("/thread", get(|| async { format!("{:?}", std::thread::current().id()) }))
            .route("/large", get(|| async { vec![b'x'; LARGE] }));
        let task = tokio::spawn(async move {
            let stop = async {
                let _ = stopped.await;
            };
            let cores = Cores::new(2).unwrap();
            serve_on(&cores, listener, app, &settings, &Readiness::default(), stop).await
        });
        Server { address, stop, task }
    }

    /// What the server says until it closes the connection.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.expect("never closed");
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn hundreds_that_come_at_once_need_not_come_again() {
        // Nobody accepts.
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = Vec::new();
        for number in 0..400 {
            let connected = timeout(Duration::from_millis(900), TcpStream::connect(address)).await;
            connections.push(connected.unwrap_or_else(|_| panic!("connection {number} was not heard")).unwrap());
        }
    }

    #[tokio::test]
    async fn a_connection_lives_on_the_core_that_has_the_fewest() {
        let server = start(HEADER_TIMEOUT);
        let mut connections = Vec::new();
        let mut threads = HashMap::new();
        for _ in 0..4 {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream.write_all(b"GET /thread HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut answer = [0; 1024];
            let length = stream.read(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer[..length]);
            *threads.entry(answer.lines().last().unwrap().to_owned()).or_default() += 1;
            connections.push(stream);
        }
        assert_eq!(threads.into_values().collect::<Vec<i32>>(), [2, 2]);
    }

    #[tokio::test]
    async fn a_client_that_does_not_begin_is_closed_in_time() {
        let server = start(HEADER_TIMEOUT);
        for said in [&b""[..], b"PRI * HT", b"GET / HT"] {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            let begun = Instant::now();
            stream.write_all(said).await.unwrap();
            assert!(!rest(&mut stream).await.contains(" 200 "));
            assert!(begun.elapsed() >= HEADER_TIMEOUT.mul_f32(0.9), "{said:?} was closed at once");
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_closed_in_time() {
        let server = start(HEADER_TIMEOUT);
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        // Unread, the answer fills the buffers of both ends; read after the time, it breaks off.
        sleep(WRITE_TIMEOUT * 3).await;
        assert!(rest(&mut stream).await.len() < LARGE);
    }

    #[tokio::test]
    async fn a_head_in_pieces_that_begins_like_http2_is_served() {
        let server = start(HEADER_TIMEOUT);
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        for piece in [&b"P"[..], b"OST / HTTP/1.1\r\nHost: x\r\n", b"Connection: close\r\nContent-Length: 0\r\n\r\n"] {
            stream.write_all(piece).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
        assert!(rest(&mut stream).await.starts_with("HTTP/1.1 405 "));
    }

    #[tokio::test]
    async fn http2_in_pieces_is_served() {
        const NO_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let server = start(HEADER_TIMEOUT);
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        for piece in [&HTTP2_PREFACE[..10], &HTTP2_PREFACE[10..], &NO_SETTINGS] {
            stream.write_all(piece).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
        let mut frame = [0; 9];
        stream.read_exact(&mut frame).await.unwrap();
        assert_eq!(frame[3], 4, "the first frame is the server's settings");
    }

    #[tokio::test]
    async fn as_many_small_messages_as_a_stream_has_room_for_end_no_connection() {
        const MESSAGE: usize = 50;
        let server = start(HEADER_TIMEOUT);
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&[&HTTP2_PREFACE[..], &frame(4, 0, 0, b"")].concat()).await.unwrap();
        let (_, settings) = read_frame(&mut stream).await;
        let window = settings.chunks(6).find(|setting| setting[..2] == [0, 4]).unwrap();
        let window = u32::from_be_bytes(window[2..].try_into().unwrap()) as usize;
        let messages = frame(0, 0, 1, &[b'x'; MESSAGE]).repeat(window / MESSAGE);
        stream.write_all(&[frame(4, 1, 0, b""), frame(1, 4, 1, SLOW), messages].concat()).await.unwrap();
        assert_eq!(answer(&mut stream).await, b"done");
    }

    #[tokio::test]
    async fn a_hundred_calls_that_are_cancelled_at_once_end_no_other() {
        let server = start(HEADER_TIMEOUT);
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let slow = |stream| frame(1, 5, stream, SLOW);
        let cancelled =
            (3..=203).step_by(2).flat_map(|stream| [slow(stream), frame(3, 0, stream, &[0, 0, 0, 8])].concat());
        let said = [HTTP2_PREFACE.to_vec(), frame(4, 0, 0, b""), slow(1), cancelled.collect()];
        stream.write_all(&said.concat()).await.unwrap();
        assert_eq!(answer(&mut stream).await, b"done");
    }

    /// A frame of HTTP/2 (RFC 9113 §4.1).
    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    }

    /// The first piece of an answer.
    async fn answer(stream: &mut TcpStream) -> Vec<u8> {
        loop {
            match read_frame(stream).await {
                (7, reason) => panic!("{}", reason.escape_ascii()),
                (0, answer) => return answer,
                _ => {}
            }
        }
    }

    /// The next frame's kind and payload.
    async fn read_frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        stream.read_exact(&mut payload).await.unwrap();
        (head[3], payload)
    }

    #[tokio::test]
    async fn the_drain_finishes_what_was_begun_and_does_not_wait_for_the_silent() {
        let server = start(Duration::from_mins(1));
        let silent = TcpStream::connect(server.address).await.unwrap();
        let mut idle = TcpStream::connect(server.address).await.unwrap();
        idle.write_all(REQUEST).await.unwrap();
        let mut busy = TcpStream::connect(server.address).await.unwrap();
        busy.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        sleep(Duration::from_millis(100)).await;
        server.stop.send(()).unwrap();
        assert!(rest(&mut busy).await.ends_with("done"));
        assert!(rest(&mut idle).await.ends_with("here"));
        server.task.await.unwrap().unwrap();
        drop(silent);
    }
}
