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

use crate::Error;

/// Flag and length.
const PREFIX: usize = 5;

/// So much is unpacked before others get a turn.
const PIECE: usize = 64 << 10;

/// What is reserved for a decoded message, as a multiple of what its elements weigh: lists double as they grow, and typed
/// contents are made raw.
const DECODED: usize = 2;

/// What unpacking takes beside the message: a window of 32 KiB, tables, and a piece.
const DECODER_BYTES: usize = 128 << 10;

/// How a call's messages come.
#[derive(Clone, Copy)]
pub struct Kind {
    /// The most bytes of one, unpacked.
    pub limit: usize,
    /// Whether there may be several.
    pub stream: bool,
    /// What a message takes in memory beside its own bytes, when decoded.
    pub weigh: fn(&[u8]) -> usize,
}

/// How the messages that say so are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    None,
    Gzip,
    Deflate,
}

/// What a message holds until it is answered.
#[derive(Debug)]
pub struct Held {
    /// In the memory of all bodies.
    _memory: Reservation,
    /// In its own stream.
    _room: OwnedSemaphorePermit,
}

/// What the messages under way hold, in their order.
#[derive(Clone, Debug, Default)]
pub struct UnderWay(Arc<Mutex<VecDeque<Held>>>);

impl UnderWay {
    /// Of the oldest message for which nobody has taken it yet.
    pub fn take(&self) -> Option<Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn put(&self, held: Held) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(held);
    }
}

/// Reads a body message by message: each within its limit, in time, and with a share in the memory of all bodies. Those of
/// one stream that are under way have together no more than one message may have; the next waits in the client.
pub struct Messages {
    body: Body,
    buffer: ReservedBuffer,
    kind: Kind,
    packing: Packing,
    bodies: BodyReader,
    room: Arc<Semaphore>,
    under_way: UnderWay,
    /// Of the message that is coming. Between those of a stream there may be any time.
    pace: Option<BodyTimeout>,
    any: bool,
    /// For the buffer; what else a stream holds was reserved before.
    memory: Reservation,
}

impl Messages {
    /// `memory` is held as long as the messages are read.
    pub fn new(body: Body, kind: Kind, packing: Packing, bodies: BodyReader, memory: Reservation) -> Self {
        let pace = (!kind.stream).then(|| BodyTimeout::new(bodies.timeout()));
        let room = Arc::new(Semaphore::new(kib(kind.limit) as usize));
        let (buffer, under_way) = (ReservedBuffer::default(), UnderWay::default());
        Self { body, buffer, kind, packing, bodies, room, under_way, pace, any: false, memory }
    }

    pub fn under_way(&self) -> UnderWay {
        self.under_way.clone()
    }

    /// The same messages as a body, unpacked.
    pub fn into_body(self) -> Body {
        Body::from_stream(try_unfold(self, |mut messages| async {
            let frame = messages.next().await?;
            Ok::<_, Status>(frame.map(|frame| (frame, messages)))
        }))
    }

    /// The next frame; `None` after the last.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if !self.fill(PREFIX, None).await? {
            let missing = !self.any && !self.kind.stream;
            return if missing { Err(Status::invalid_argument("the call takes a message")) } else { Ok(None) };
        }
        if self.any && !self.kind.stream {
            return Err(Status::invalid_argument("the call takes one message, but several were sent"));
        }
        let head = self.buffer.as_slice();
        let packed = match head[0] {
            0 => false,
            1 => true,
            flag => return Err(Status::invalid_argument(format!("a frame begins with {flag}, which means nothing"))),
        };
        let length = head[1..PREFIX].iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
        if length > self.kind.limit {
            return Err(self.too_large());
        }
        let room = self.make_room(if packed { self.kind.limit } else { length }).await?;
        self.fill(PREFIX + length, Some(PREFIX + length)).await?;
        let (mut frame, mut memory) = self.take_frame(PREFIX + length)?;
        if packed {
            frame = unpack(&frame, self.packing, self.kind.limit, &mut memory).await?;
        }
        let weight = (self.kind.weigh)(&frame[PREFIX..]);
        if weight > self.kind.limit {
            return Err(self.too_large());
        }
        memory.reserve(DECODED * weight).map_err(refused)?;
        self.under_way.put(Held { _memory: memory, _room: room });
        self.any = true;
        if self.kind.stream {
            self.pace = None;
        }
        Ok(Some(frame))
    }

    /// The first `length` bytes of the buffer, and what is reserved for them. What has come of the next message is moved to a
    /// buffer of its own.
    fn take_frame(&mut self, length: usize) -> Result<(Bytes, Reservation), Status> {
        let mut memory = self.memory.sibling();
        let frame = std::mem::take(&mut self.buffer);
        let rest = &frame.as_slice()[length..];
        if !rest.is_empty() {
            self.buffer.extend(rest, Some(rest.len()), rest.len(), &mut self.memory).map_err(refused)?;
        }
        let frame = frame.into_vec();
        self.memory.release(frame.capacity());
        memory.reserve(frame.capacity()).map_err(refused)?;
        Ok((Bytes::from(frame).slice(..length), memory))
    }

    /// Waits until so many bytes of this stream may be under way.
    async fn make_room(&mut self, length: usize) -> Result<OwnedSemaphorePermit, Status> {
        let room = Arc::clone(&self.room).acquire_many_owned(kib(length)).await;
        if self.kind.stream {
            // The client was kept waiting, and not the other way round.
            self.pace = Some(BodyTimeout::new(self.bodies.timeout()));
        }
        room.map_err(|_| Status::internal("the stream is closed"))
    }

    /// Reads until the buffer has so many bytes, of `known` in the end. `false`: the body ended before the first of them.
    async fn fill(&mut self, length: usize, known: Option<usize>) -> Result<bool, Status> {
        while self.buffer.len() < length {
            // Pieces without a byte may always be there, and then no timer is looked at.
            consume_budget().await;
            let held = self.memory.bytes();
            let frame = match &mut self.pace {
                None => self.body.frame().await,
                Some(pace) => pace.wait(held, self.body.frame()).await.map_err(refused)?,
            };
            let Some(frame) = frame else {
                return if self.buffer.is_empty() { Ok(false) } else { Err(refused(BodyError::Incomplete)) };
            };
            let Ok(data) = frame.map_err(|_| refused(BodyError::Incomplete))?.into_data() else { continue };
            self.pace.get_or_insert_with(|| BodyTimeout::new(self.bodies.timeout())).add(data.len());
            // The beginning of the next message may come with the end of this one.
            let most = self.kind.limit + PREFIX + data.len();
            let known = known.filter(|&known| self.buffer.len() + data.len() <= known);
            self.buffer.extend(&data, known, most, &mut self.memory).map_err(refused)?;
        }
        Ok(true)
    }

    fn too_large(&self) -> Status {
        refused(BodyError::TooLarge(self.kind.limit))
    }
}

/// The frame with its message unpacked, of at most `limit` bytes. `memory` is what is reserved for the frame.
async fn unpack(frame: &Bytes, packing: Packing, limit: usize, memory: &mut Reservation) -> Result<Bytes, Status> {
    let packed = &frame[PREFIX..];
    memory.reserve(DECODER_BYTES).map_err(refused)?;
    let mut unpacking: Box<dyn Read + Send + '_> = match packing {
        Packing::Gzip => Box::new(MultiGzDecoder::new(packed)),
        Packing::Deflate => Box::new(ZlibDecoder::new(packed)),
        Packing::None => return Err(Status::invalid_argument("a message is compressed, but grpc-encoding is missing")),
    };
    let mut unpacked = ReservedBuffer::default();
    unpacked.extend(&[0; PREFIX], None, limit + PREFIX, memory).map_err(refused)?;
    let mut piece = vec![0; PIECE];
    loop {
        let broken = |_| Status::invalid_argument("a compressed message cannot be unpacked");
        let length = unpacking.read(&mut piece).map_err(broken)?;
        if length == 0 {
            break;
        }
        if unpacked.len() - PREFIX + length > limit {
            return Err(refused(BodyError::TooLarge(limit)));
        }
        unpacked.extend(&piece[..length], None, limit + PREFIX, memory).map_err(refused)?;
        tokio::task::yield_now().await;
    }
    memory.release(DECODER_BYTES);
    let length = (unpacked.len() - PREFIX) as u32;
    unpacked.as_mut_slice()[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    Ok(unpacked.into_vec().into())
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

fn refused(error: BodyError) -> Status {
    Error::from(error).into()
}
