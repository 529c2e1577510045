mod connection_limit;
mod http2;

use std::collections::HashMap;
use std::time::Instant;

use axum::Extension;
use axum::body::Bytes;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::peer::Peer;

const HEADER_TIMEOUT: Duration = Duration::from_millis(300);
const WRITE_TIMEOUT: Duration = Duration::from_millis(300);
const LARGE: usize = 64 << 20;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), DrainTimeout>>,
}

fn start(header_timeout: Duration) -> Server {
    start_with(header_timeout, Duration::from_mins(1))
}

fn start_with(header_timeout: Duration, idle_timeout: Duration) -> Server {
    start_on(settings(header_timeout, idle_timeout))
}

fn settings(header_timeout: Duration, idle_timeout: Duration) -> ServerSettings {
    ServerSettings {
        header_timeout,
        idle_timeout,
        body_timeout: WRITE_TIMEOUT,
        lame_duck: Duration::ZERO,
        drain_timeout: Duration::from_secs(5),
        ..ServerSettings::from_env(0, 0).unwrap()
    }
}

fn start_on(settings: ServerSettings) -> Server {
    let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let slow = get(|| async {
        sleep(Duration::from_millis(500)).await;
        "done"
    });
    let app = Router::new()
        .route("/", get(|| async { "here" }))
        .route("/slow", slow)
        .route("/peer", get(async |Extension(Peer(address)): Extension<Peer>| address.to_string()))
        .route("/thread", get(|| async { format!("{:?}", std::thread::current().id()) }))
        .route("/read", post(|_: Bytes| async { "read" }))
        .route("/large", get(|| async { vec![b'x'; LARGE] }));
    let task = tokio::spawn(async move {
        let stop = async {
            let _ = stopped.await;
        };
        let runtimes = PerCoreRuntimes::new(2).unwrap();
        serve_on(&runtimes, listener, app, &settings, &Readiness::default(), stop).await
    });
    Server { address, stop, task }
}

/// Reads until the server closes the connection.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut response = Vec::new();
    let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut response)).await.expect("never closed");
    String::from_utf8(response).unwrap()
}

#[tokio::test]
async fn backlog_holds_hundreds_of_simultaneous_connections() {
    // No task accepts.
    let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let mut connections = Vec::new();
    for number in 0..400 {
        let connected = timeout(Duration::from_millis(900), TcpStream::connect(address)).await;
        connections
            .push(connected.unwrap_or_else(|_| panic!("connection {number} was not accepted by the kernel")).unwrap());
    }
}

#[tokio::test]
async fn connection_is_assigned_to_the_least_loaded_core() {
    let server = start(HEADER_TIMEOUT);
    let mut connections = Vec::new();
    let mut threads = HashMap::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /thread HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut response = [0; 1024];
        let length = stream.read(&mut response).await.unwrap();
        let response = String::from_utf8_lossy(&response[..length]);
        *threads.entry(response.lines().last().unwrap().to_owned()).or_default() += 1;
        connections.push(stream);
    }
    assert_eq!(threads.into_values().collect::<Vec<i32>>(), [2, 2]);
}

#[tokio::test]
async fn client_without_a_complete_header_is_closed_after_the_header_timeout() {
    let server = start(HEADER_TIMEOUT);
    for bytes in [&b""[..], b"PRI * HT", b"GET / HT"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let start = Instant::now();
        stream.write_all(bytes).await.unwrap();
        assert!(!read_to_end(&mut stream).await.contains(" 200 "));
        assert!(start.elapsed() >= HEADER_TIMEOUT.mul_f32(0.9), "{bytes:?}: closed too early");
    }
}

#[tokio::test]
async fn client_that_does_not_read_is_closed_after_the_write_timeout() {
    let server = start(HEADER_TIMEOUT);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // The unread response fills the buffers of both ends. Read after the timeout, it is truncated.
    sleep(WRITE_TIMEOUT * 3).await;
    assert!(read_to_end(&mut stream).await.len() < LARGE);
}

#[tokio::test]
async fn http1_header_in_pieces_that_begins_like_http2_is_served() {
    let server = start(HEADER_TIMEOUT);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for piece in [&b"P"[..], b"OST / HTTP/1.1\r\nHost: x\r\n", b"Connection: close\r\nContent-Length: 0\r\n\r\n"] {
        stream.write_all(piece).await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 405 "));
}

/// Sends a request on a connection that stays open, and reads the response.
async fn send_request(stream: &mut TcpStream) {
    stream.write_all(REQUEST).await.unwrap();
    let mut response = [0; 1024];
    let length = stream.read(&mut response).await.unwrap();
    assert!(response[..length].ends_with(b"here"), "{}", response[..length].escape_ascii());
}

#[tokio::test]
async fn idle_connection_is_closed_after_the_idle_timeout_not_the_header_timeout() {
    let idle_timeout = HEADER_TIMEOUT * 4;
    let server = start_with(HEADER_TIMEOUT, idle_timeout);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..2 {
        send_request(&mut stream).await;
        sleep(HEADER_TIMEOUT * 2).await;
    }
    send_request(&mut stream).await;
    let start = Instant::now();
    assert_eq!(read_to_end(&mut stream).await, "");
    assert!(start.elapsed() >= idle_timeout.mul_f32(0.9), "closed after {:?}", start.elapsed());
}

#[tokio::test]
async fn later_incomplete_header_has_the_header_timeout() {
    let server = start_with(HEADER_TIMEOUT, Duration::from_mins(1));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    send_request(&mut stream).await;
    sleep(HEADER_TIMEOUT * 2).await;
    let start = Instant::now();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
    assert!(!read_to_end(&mut stream).await.contains(" 200 "));
    assert!(start.elapsed() >= HEADER_TIMEOUT.mul_f32(0.9), "closed after {:?}", start.elapsed());
}

#[tokio::test]
async fn drain_finishes_requests_in_flight_and_closes_unused_connections() {
    let server = start_with(Duration::from_mins(1), Duration::from_mins(1));
    let silent = TcpStream::connect(server.address).await.unwrap();
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(REQUEST).await.unwrap();
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    sleep(Duration::from_millis(100)).await;
    server.stop.send(()).unwrap();
    assert!(read_to_end(&mut busy).await.ends_with("done"));
    assert!(read_to_end(&mut idle).await.ends_with("here"));
    server.task.await.unwrap().unwrap();
    drop(silent);
}

#[tokio::test]
async fn dropped_server_closes_its_connections() {
    let server = start(Duration::from_mins(1));
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    send_request(&mut idle).await;
    server.task.abort();
    assert_eq!(read_to_end(&mut idle).await, "");
}

#[tokio::test]
async fn request_carries_the_address_of_its_client() {
    let server = start(Duration::from_mins(1));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /peer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(read_to_end(&mut stream).await.ends_with("127.0.0.1"));
}
