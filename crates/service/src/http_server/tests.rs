use std::collections::HashMap;
use std::time::Instant;

use axum::Extension;
use axum::body::Bytes;
use axum::routing::{get, post};
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
    let cancelled = (3..=203).step_by(2).flat_map(|stream| [slow(stream), frame(3, 0, stream, &[0, 0, 0, 8])].concat());
    let said = [HTTP2_PREFACE.to_vec(), frame(4, 0, 0, b""), slow(1), cancelled.collect()];
    stream.write_all(&said.concat()).await.unwrap();
    assert_eq!(answer(&mut stream).await, b"done");
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
async fn an_idle_http2_connection_is_told_to_go_and_an_open_stream_is_finished() {
    let server = start_with(HEADER_TIMEOUT, Duration::from_millis(200));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // The request takes 500 ms: GOAWAY comes before its response.
    let said = [&HTTP2_PREFACE[..], &frame(4, 0, 0, b""), &frame(1, 5, 1, SLOW)].concat();
    stream.write_all(&said).await.unwrap();
    let mut seen = Vec::new();
    loop {
        match read_frame(&mut stream).await {
            // The server asks how far the client is before it closes for good.
            (6, payload) => stream.write_all(&frame(6, 1, 0, &payload)).await.unwrap(),
            (0, body) if body.is_empty() => {}
            (0, body) => {
                assert_eq!(body, b"done");
                break;
            }
            (kind, _) => seen.push(kind),
        }
    }
    assert!(seen.contains(&7), "no GOAWAY: {seen:?}");
    let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut Vec::new())).await.expect("never closed");
}

#[tokio::test]
async fn an_http2_client_that_never_makes_a_request_is_closed() {
    let server = start_with(HEADER_TIMEOUT, Duration::from_millis(200));
    for said in [HTTP2_PREFACE.to_vec(), [&HTTP2_PREFACE[..], &frame(4, 0, 0, b"")].concat()] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&said).await.unwrap();
        let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut Vec::new())).await.expect("never closed");
    }
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

/// A server with four places and timeouts that no test waits for.
fn four_places() -> Server {
    let minute = Duration::from_mins(1);
    start_on(ServerSettings { max_connections: 4, body_timeout: minute, ..settings(minute, minute) })
}

/// Clients that take all four places, have sent `bytes`, and have been idle for longer than a new connection waits for.
async fn fill(server: &Server, bytes: &[u8]) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        streams.push(stream);
    }
    sleep(Duration::from_millis(200)).await;
    streams
}

/// The clients whose connection the server has closed.
async fn closed(streams: &mut [TcpStream]) -> Vec<usize> {
    let mut closed = Vec::new();
    for (number, stream) in streams.iter_mut().enumerate() {
        let ends = timeout(Duration::from_millis(50), stream.read_to_end(&mut Vec::new())).await.is_ok();
        if ends {
            closed.push(number);
        }
    }
    closed
}

#[tokio::test]
async fn a_new_connection_takes_the_place_of_an_idle_one() {
    let http2 = [&HTTP2_PREFACE[..], &frame(4, 0, 0, b"")].concat();
    for (kind, bytes) in [
        ("silent", &b""[..]),
        ("half a preface", b"PRI * HT"),
        ("HTTP/2", &http2),
        ("half a header", b"GET / HTTP/1.1\r\nX-"),
    ] {
        let server = four_places();
        let mut idle = fill(&server, bytes).await;
        let mut new = TcpStream::connect(server.address).await.unwrap();
        timeout(Duration::from_secs(2), ask(&mut new)).await.unwrap_or_else(|_| panic!("{kind}: not served"));
        assert_eq!(closed(&mut idle).await, [0], "{kind}: one is closed, that which has been idle for longest");
    }
}

#[tokio::test]
async fn silent_connections_give_way_before_used_ones_and_busy_ones_never() {
    let server = four_places();
    let mut streams = fill(&server, b"").await;
    ask(&mut streams[0]).await;
    streams[1].write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    sleep(Duration::from_millis(150)).await;
    let mut new = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        new.push(stream);
        sleep(Duration::from_millis(20)).await;
    }
    for stream in new.iter_mut().chain([&mut streams[1]]) {
        let mut response = [0; 1024];
        let length = timeout(Duration::from_secs(5), stream.read(&mut response)).await.unwrap().unwrap();
        assert!(response[..length].ends_with(b"done"), "{}", response[..length].escape_ascii());
    }
    assert_eq!(closed(&mut streams).await, [0, 2, 3]);
}

#[tokio::test]
async fn where_all_connections_are_busy_a_new_one_is_refused() {
    let server = four_places();
    let mut busy = fill(&server, b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n").await;
    let mut new = TcpStream::connect(server.address).await.unwrap();
    new.write_all(REQUEST).await.unwrap();
    assert!(rest(&mut new).await.starts_with("HTTP/1.1 503 "));
    for stream in &mut busy {
        stream.write_all(b"123456789").await.unwrap();
        let mut response = [0; 1024];
        let length = stream.read(&mut response).await.unwrap();
        assert!(response[..length].ends_with(b"read"), "{}", response[..length].escape_ascii());
    }
}

#[tokio::test]
async fn a_client_that_reads_a_large_response_is_busy() {
    let server = four_places();
    let mut reading = fill(&server, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut new = TcpStream::connect(server.address).await.unwrap();
    new.write_all(REQUEST).await.unwrap();
    assert!(rest(&mut new).await.starts_with("HTTP/1.1 503 "));
    let mut response = Vec::new();
    while response.len() < LARGE {
        assert!(reading[0].read_buf(&mut response).await.unwrap() > 0, "cut off after {} bytes", response.len());
    }
}
