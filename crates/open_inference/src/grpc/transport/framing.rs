//! Reader for length-prefixed messages.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use bytes::Bytes;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use futures_util::stream::try_unfold;
use http_body_util::BodyExt;
use service::body_limits::{BodyError, BodyReader, BodyTimeout};
use service::memory_budget::{Reservation, ReservedBuffer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::coop::consume_budget;
use tonic::Status;

use crate::error::Error;

/// Compressed flag and length.
const FRAME_HEADER_BYTES: usize = 5;

/// Chunk size of decompression, in bytes. Other tasks run between two chunks.
const CHUNK_BYTES: usize = 64 << 10;

/// Multiple of the estimated size that is reserved for a decoded message: lists double as they grow, and typed contents
/// are converted to raw ones.
const DECODED_FACTOR: usize = 2;

/// Memory of a decoder, besides the message: a window of 32 KiB, tables and a chunk.
const DECODER_BYTES: usize = 128 << 10;

/// Limits of the messages of a call.
#[derive(Clone, Copy)]
pub struct MessageLimits {
    /// Maximum size of a decompressed message.
    pub max_bytes: usize,
    /// Whether the call takes a stream of messages.
    pub is_stream: bool,
    /// Estimates the memory of a decoded message, besides its own bytes.
    pub decoded_size: fn(&[u8]) -> usize,
}

/// Compression of the messages with the compressed flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Deflate,
}

/// Resources that a message holds until its response is complete.
#[derive(Debug)]
pub struct Reserved {
    /// In the memory budget of all bodies.
    _memory: Reservation,
    /// In the window of its stream.
    _window: OwnedSemaphorePermit,
}

/// Reservations of the messages in flight, in order.
#[derive(Clone, Debug, Default)]
pub struct InFlight(Arc<Mutex<VecDeque<Reserved>>>);

impl InFlight {
    /// Removes the reservation of the oldest message.
    pub fn pop(&self) -> Option<Reserved> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn push(&self, reserved: Reserved) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(reserved);
    }
}

/// Reads a body frame by frame, each within its size limit, its time limit and the memory budget of all bodies. The
/// messages of a stream in flight together have at most the size of one message. Backpressure: further messages stay
/// with the client.
pub struct FrameReader {
    body: Body,
    buffer: ReservedBuffer,
    limits: MessageLimits,
    compression: Compression,
    bodies: BodyReader,
    window: Arc<Semaphore>,
    in_flight: InFlight,
    /// Timeout of the message that is being read. The time between messages of a stream is unlimited.
    body_timeout: Option<BodyTimeout>,
    has_read_any: bool,
    /// For the buffer. Other memory of the stream is reserved separately.
    memory: Reservation,
}

impl FrameReader {
    /// `memory` stays reserved while messages are read.
    pub fn new(
        body: Body,
        limits: MessageLimits,
        compression: Compression,
        bodies: BodyReader,
        memory: Reservation,
    ) -> Self {
        let body_timeout = (!limits.is_stream).then(|| BodyTimeout::new(bodies.timeout()));
        let window = Arc::new(Semaphore::new(kib(limits.max_bytes) as usize));
        let (buffer, in_flight) = (ReservedBuffer::default(), InFlight::default());
        Self { body, buffer, limits, compression, bodies, window, in_flight, body_timeout, has_read_any: false, memory }
    }

    pub fn in_flight(&self) -> InFlight {
        self.in_flight.clone()
    }

    /// The decompressed messages as a body.
    pub fn into_body(self) -> Body {
        Body::from_stream(try_unfold(self, |mut reader| async {
            let frame = reader.next_frame().await?;
            Ok::<_, Status>(frame.map(|frame| (frame, reader)))
        }))
    }

    /// The next frame; `None` after the last.
    async fn next_frame(&mut self) -> Result<Option<Bytes>, Status> {
        if !self.read_until(FRAME_HEADER_BYTES, None).await? {
            let missing = !self.has_read_any && !self.limits.is_stream;
            return if missing { Err(Status::invalid_argument("the call requires a message")) } else { Ok(None) };
        }
        if self.has_read_any && !self.limits.is_stream {
            return Err(Status::invalid_argument("the call requires one message, but several were sent"));
        }
        let header = self.buffer.as_slice();
        let compressed = match header[0] {
            0 => false,
            1 => true,
            flag => return Err(Status::invalid_argument(format!("a frame starts with the invalid flag {flag}"))),
        };
        let length = header[1..FRAME_HEADER_BYTES].iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
        if length > self.limits.max_bytes {
            return Err(self.too_large());
        }
        let window = self.acquire_window(if compressed { self.limits.max_bytes } else { length }).await?;
        self.read_until(FRAME_HEADER_BYTES + length, Some(FRAME_HEADER_BYTES + length)).await?;
        let (mut frame, mut memory) = self.take_frame(FRAME_HEADER_BYTES + length)?;
        if compressed {
            frame = decompress(&frame, self.compression, self.limits.max_bytes, &mut memory).await?;
        }
        let decoded_size = (self.limits.decoded_size)(&frame[FRAME_HEADER_BYTES..]);
        if decoded_size > self.limits.max_bytes {
            return Err(self.too_large());
        }
        memory.reserve(DECODED_FACTOR * decoded_size).map_err(to_status)?;
        self.in_flight.push(Reserved { _memory: memory, _window: window });
        self.has_read_any = true;
        if self.limits.is_stream {
            self.body_timeout = None;
        }
        Ok(Some(frame))
    }

    /// Takes the first `length` bytes off the buffer, with their reservation. The start of the next message is copied
    /// to a new buffer.
    fn take_frame(&mut self, length: usize) -> Result<(Bytes, Reservation), Status> {
        let mut memory = self.memory.sibling();
        let frame = std::mem::take(&mut self.buffer);
        let rest = &frame.as_slice()[length..];
        if !rest.is_empty() {
            self.buffer.extend(rest, Some(rest.len()), rest.len(), &mut self.memory).map_err(to_status)?;
        }
        let frame = frame.into_vec();
        self.memory.release(frame.capacity());
        memory.reserve(frame.capacity()).map_err(to_status)?;
        Ok((Bytes::from(frame).slice(..length), memory))
    }

    /// Waits for room in the window of the stream.
    async fn acquire_window(&mut self, length: usize) -> Result<OwnedSemaphorePermit, Status> {
        let permit = Arc::clone(&self.window).acquire_many_owned(kib(length)).await;
        if self.limits.is_stream {
            // The server delayed the client here, so its time limit restarts.
            self.body_timeout = Some(BodyTimeout::new(self.bodies.timeout()));
        }
        permit.map_err(|_| Status::internal("the stream is closed"))
    }

    /// Reads until the buffer has `length` bytes. `frame_length` is the length of the whole frame, where it is known.
    /// `false` where the body ends before the first byte.
    async fn read_until(&mut self, length: usize, frame_length: Option<usize>) -> Result<bool, Status> {
        while self.buffer.len() < length {
            // Empty chunks may always be ready, and then the timer is never polled.
            consume_budget().await;
            let reserved = self.memory.bytes();
            let frame = match &mut self.body_timeout {
                None => self.body.frame().await,
                Some(body_timeout) => body_timeout.wait(reserved, self.body.frame()).await.map_err(to_status)?,
            };
            let Some(frame) = frame else {
                return if self.buffer.is_empty() { Ok(false) } else { Err(to_status(BodyError::Incomplete)) };
            };
            let Ok(data) = frame.map_err(|_| to_status(BodyError::Incomplete))?.into_data() else { continue };
            self.body_timeout.get_or_insert_with(|| BodyTimeout::new(self.bodies.timeout())).add(data.len());
            // A chunk may contain the start of the next message.
            let max_bytes = self.limits.max_bytes + FRAME_HEADER_BYTES + data.len();
            let final_length = frame_length.filter(|&length| self.buffer.len() + data.len() <= length);
            self.buffer.extend(&data, final_length, max_bytes, &mut self.memory).map_err(to_status)?;
        }
        Ok(true)
    }

    fn too_large(&self) -> Status {
        to_status(BodyError::TooLarge(self.limits.max_bytes))
    }
}

/// Decompresses the message of a frame to at most `limit` bytes. `memory` is the reservation of the frame.
async fn decompress(
    frame: &Bytes,
    compression: Compression,
    limit: usize,
    memory: &mut Reservation,
) -> Result<Bytes, Status> {
    let compressed = &frame[FRAME_HEADER_BYTES..];
    memory.reserve(DECODER_BYTES).map_err(to_status)?;
    let mut decoder: Box<dyn Read + Send + '_> = match compression {
        Compression::Gzip => Box::new(MultiGzDecoder::new(compressed)),
        Compression::Deflate => Box::new(ZlibDecoder::new(compressed)),
        Compression::None => {
            return Err(Status::invalid_argument("a message is compressed, but grpc-encoding is missing"));
        }
    };
    let mut decompressed = ReservedBuffer::default();
    decompressed.extend(&[0; FRAME_HEADER_BYTES], None, limit + FRAME_HEADER_BYTES, memory).map_err(to_status)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let invalid = |_| Status::invalid_argument("a compressed message cannot be decompressed");
        let length = decoder.read(&mut chunk).map_err(invalid)?;
        if length == 0 {
            break;
        }
        if decompressed.len() - FRAME_HEADER_BYTES + length > limit {
            return Err(to_status(BodyError::TooLarge(limit)));
        }
        decompressed.extend(&chunk[..length], None, limit + FRAME_HEADER_BYTES, memory).map_err(to_status)?;
        tokio::task::yield_now().await;
    }
    memory.release(DECODER_BYTES);
    let length = (decompressed.len() - FRAME_HEADER_BYTES) as u32;
    decompressed.as_mut_slice()[1..FRAME_HEADER_BYTES].copy_from_slice(&length.to_be_bytes());
    Ok(decompressed.into_vec().into())
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

fn to_status(error: BodyError) -> Status {
    Error::from(error).into()
}
