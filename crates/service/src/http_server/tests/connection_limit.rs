use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::http2::frame;
use super::{LARGE, REQUEST, Server, read_to_end, send_request, settings, start_on};
use crate::http_server::connection::HTTP2_PREFACE;
use crate::settings::ServerSettings;

/// Server with a limit of four connections, and timeouts that no test waits for.
fn four_connections() -> Server {
    let minute = Duration::from_mins(1);
    start_on(ServerSettings { max_connections: 4, body_timeout: minute, ..settings(minute, minute) })
}

/// Opens four connections, sends `bytes` on each, and waits until they may be evicted.
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

/// Indices of the connections that the server has closed.
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
async fn new_connection_replaces_an_idle_one() {
    let http2 = [&HTTP2_PREFACE[..], &frame(4, 0, 0, b"")].concat();
    for (kind, bytes) in [
        ("no bytes", &b""[..]),
        ("half a preface", b"PRI * HT"),
        ("HTTP/2", &http2),
        ("half a header", b"GET / HTTP/1.1\r\nX-"),
    ] {
        let server = four_connections();
        let mut idle = fill(&server, bytes).await;
        let mut new = TcpStream::connect(server.address).await.unwrap();
        timeout(Duration::from_secs(2), send_request(&mut new)).await.unwrap_or_else(|_| panic!("{kind}: not served"));
        assert_eq!(closed(&mut idle).await, [0], "{kind}: the connection that is idle for longest is closed");
    }
}

#[tokio::test]
async fn unused_connections_are_evicted_before_used_ones_and_busy_ones_never() {
    let server = four_connections();
    let mut streams = fill(&server, b"").await;
    send_request(&mut streams[0]).await;
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
async fn new_connection_is_rejected_if_all_are_busy() {
    let server = four_connections();
    let mut busy = fill(&server, b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n").await;
    let mut new = TcpStream::connect(server.address).await.unwrap();
    new.write_all(REQUEST).await.unwrap();
    assert!(read_to_end(&mut new).await.starts_with("HTTP/1.1 503 "));
    for stream in &mut busy {
        stream.write_all(b"123456789").await.unwrap();
        let mut response = [0; 1024];
        let length = stream.read(&mut response).await.unwrap();
        assert!(response[..length].ends_with(b"read"), "{}", response[..length].escape_ascii());
    }
}

#[tokio::test]
async fn client_that_reads_a_large_response_is_busy() {
    let server = four_connections();
    let mut reading = fill(&server, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut new = TcpStream::connect(server.address).await.unwrap();
    new.write_all(REQUEST).await.unwrap();
    assert!(read_to_end(&mut new).await.starts_with("HTTP/1.1 503 "));
    let mut response = Vec::new();
    while response.len() < LARGE {
        assert!(reading[0].read_buf(&mut response).await.unwrap() > 0, "cut off after {} bytes", response.len());
    }
}
