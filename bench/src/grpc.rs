use std::future::poll_fn;
use std::io;

use bytes::{Bytes, BytesMut};
use h2::client::{self, SendRequest};
use http::{HeaderMap, Request};
use tokio::net::TcpStream;

use crate::http1::Answer;

/// A connection on which one call is made at a time.
pub struct Connection {
    calls: SendRequest<Bytes>,
    message: BytesMut,
    cache_status: Vec<u8>,
}

impl Connection {
    /// Connects; the connection's work goes on in the background.
    pub async fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut settings = client::Builder::new();
        settings.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
        let (calls, connection) = settings.handshake(stream).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self { calls, message: BytesMut::new(), cache_status: Vec::new() })
    }

    /// Makes a call. Its status is returned as HTTP's: 503 for "unavailable", 500 for every other error.
    pub async fn exchange(&mut self, call: &Request<()>, message: &[u8]) -> io::Result<Answer<'_>> {
        self.call(call, message).await.map_err(io::Error::other)
    }

    async fn call(&mut self, call: &Request<()>, message: &[u8]) -> Result<Answer<'_>, h2::Error> {
        poll_fn(|context| self.calls.poll_ready(context)).await?;
        let (response, mut body) = self.calls.send_request(call.clone(), false)?;
        // What does not fit into the other end's window waits in memory for its turn.
        body.send_data(Bytes::copy_from_slice(message), true)?;
        let (head, mut body) = response.await?.into_parts();
        self.message.clear();
        while let Some(piece) = body.data().await {
            let piece = piece?;
            body.flow_control().release_capacity(piece.len())?;
            self.message.extend_from_slice(&piece);
        }
        let trailers = body.trailers().await?;
        self.cache_status.clear();
        if let Some(status) = head.headers.get("cache-status") {
            self.cache_status.extend_from_slice(status.as_bytes());
        }
        Ok(Answer {
            status: status_of(trailers.as_ref().unwrap_or(&head.headers)),
            json_length: None,
            cache_status: &self.cache_status,
            body: self.message.get(5..).unwrap_or_default(),
            closes: false,
        })
    }
}

fn status_of(trailers: &HeaderMap) -> u16 {
    match trailers.get("grpc-status").map(http::HeaderValue::as_bytes) {
        Some(b"0") => 200,
        // RESOURCE_EXHAUSTED and UNAVAILABLE.
        Some(b"8" | b"14") => 503,
        _ => 500,
    }
}
