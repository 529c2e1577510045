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

/// Sends a request on a connection that stays open, and reads the response.
async fn ask(stream: &mut TcpStream) {
    stream.write_all(REQUEST).await.unwrap();
    let mut response = [0; 1024];
    let length = stream.read(&mut response).await.unwrap();
    assert!(response[..length].ends_with(b"here"), "{}", response[..length].escape_ascii());
}

#[tokio::test]
async fn an_idle_connection_outlives_the_header_timeout_and_is_closed_after_its_own() {
    let idle_timeout = HEADER_TIMEOUT * 4;
    let server = start_with(HEADER_TIMEOUT, idle_timeout);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..2 {
        ask(&mut stream).await;
        sleep(HEADER_TIMEOUT * 2).await;
    }
    ask(&mut stream).await;
    let begun = Instant::now();
    assert_eq!(rest(&mut stream).await, "");
    assert!(begun.elapsed() >= idle_timeout.mul_f32(0.9), "closed after {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_later_header_that_has_begun_has_the_header_timeout() {
    let server = start_with(HEADER_TIMEOUT, Duration::from_mins(1));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    ask(&mut stream).await;
    sleep(HEADER_TIMEOUT * 2).await;
    let begun = Instant::now();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
    assert!(!rest(&mut stream).await.contains(" 200 "));
    assert!(begun.elapsed() >= HEADER_TIMEOUT.mul_f32(0.9), "closed after {:?}", begun.elapsed());
}

#[tokio::test]
async fn the_drain_finishes_what_was_begun_and_does_not_wait_for_the_silent() {
    let server = start_with(Duration::from_mins(1), Duration::from_mins(1));
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

#[tokio::test]
async fn a_server_that_is_dropped_ends_its_connections() {
    let server = start(Duration::from_mins(1));
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    ask(&mut idle).await;
    server.task.abort();
    assert_eq!(rest(&mut idle).await, "");
}

#[tokio::test]
async fn a_request_names_the_address_of_its_client() {
    let server = start(Duration::from_mins(1));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /peer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(rest(&mut stream).await.ends_with("127.0.0.1"));
}
