use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{HEADER_TIMEOUT, start, start_with};
use crate::http_server::connection::HTTP2_PREFACE;

/// `GET /slow`, HPACK-encoded.
const SLOW: &[u8] = b"\x82\x86\x04\x05/slow";

#[tokio::test]
async fn http2_preface_in_pieces_is_served() {
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
async fn stream_window_full_of_small_messages_does_not_end_the_connection() {
    const MESSAGE: usize = 50;
    let server = start(HEADER_TIMEOUT);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&[&HTTP2_PREFACE[..], &frame(4, 0, 0, b"")].concat()).await.unwrap();
    let (_, settings) = read_frame(&mut stream).await;
    let window = settings.chunks(6).find(|setting| setting[..2] == [0, 4]).unwrap();
    let window = u32::from_be_bytes(window[2..].try_into().unwrap()) as usize;
    let messages = frame(0, 0, 1, &[b'x'; MESSAGE]).repeat(window / MESSAGE);
    stream.write_all(&[frame(4, 1, 0, b""), frame(1, 4, 1, SLOW), messages].concat()).await.unwrap();
    assert_eq!(read_data(&mut stream).await, b"done");
}

#[tokio::test]
async fn a_hundred_reset_streams_do_not_end_other_streams() {
    let server = start(HEADER_TIMEOUT);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let slow = |stream| frame(1, 5, stream, SLOW);
    let cancelled = (3..=203).step_by(2).flat_map(|stream| [slow(stream), frame(3, 0, stream, &[0, 0, 0, 8])].concat());
    let frames = [HTTP2_PREFACE.to_vec(), frame(4, 0, 0, b""), slow(1), cancelled.collect()];
    stream.write_all(&frames.concat()).await.unwrap();
    assert_eq!(read_data(&mut stream).await, b"done");
}

#[tokio::test]
async fn idle_http2_connection_gets_goaway_and_its_open_stream_finishes() {
    let server = start_with(HEADER_TIMEOUT, Duration::from_millis(200));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // The request takes 500 ms, so that GOAWAY precedes its response.
    let frames = [&HTTP2_PREFACE[..], &frame(4, 0, 0, b""), &frame(1, 5, 1, SLOW)].concat();
    stream.write_all(&frames).await.unwrap();
    let mut seen = Vec::new();
    loop {
        match read_frame(&mut stream).await {
            // The server sends a ping before it closes the connection.
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
async fn http2_connection_without_a_request_is_closed() {
    let server = start_with(HEADER_TIMEOUT, Duration::from_millis(200));
    for frames in [HTTP2_PREFACE.to_vec(), [&HTTP2_PREFACE[..], &frame(4, 0, 0, b"")].concat()] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&frames).await.unwrap();
        let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut Vec::new())).await.expect("never closed");
    }
}

/// Encodes an HTTP/2 frame (RFC 9113 §4.1).
pub(super) fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// First DATA frame of a response.
async fn read_data(stream: &mut TcpStream) -> Vec<u8> {
    loop {
        match read_frame(stream).await {
            (7, reason) => panic!("{}", reason.escape_ascii()),
            (0, data) => return data,
            _ => {}
        }
    }
}

/// Type and payload of the next frame.
async fn read_frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
    stream.read_exact(&mut payload).await.unwrap();
    (head[3], payload)
}
