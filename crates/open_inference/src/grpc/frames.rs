use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use futures_util::stream::try_unfold;
use http_body_util::BodyExt;
use service::body::{BodyError, BodyReader, Share};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use crate::Error;

/// Flag and length.
const PREFIX: usize = 5;

/// So much is unpacked before others get a turn.
const PIECE: usize = 64 << 10;

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
    _share: Share,
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
    buffer: BytesMut,
    kind: Kind,
    packing: Packing,
    bodies: BodyReader,
    room: Arc<Semaphore>,
    under_way: UnderWay,
    /// For the message that is coming. Between those of a stream there may be any time.
    deadline: Option<Instant>,
    any: bool,
}

impl Messages {
    pub fn new(body: Body, kind: Kind, packing: Packing, bodies: BodyReader) -> Self {
        let deadline = (!kind.stream).then(|| Instant::now() + bodies.patience());
        let room = Arc::new(Semaphore::new(kib(kind.limit) as usize));
        let (buffer, under_way) = (BytesMut::new(), UnderWay::default());
        Self { body, buffer, kind, packing, bodies, room, under_way, deadline, any: false }
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
        let mut share = self.bodies.share();
        if !self.fill(PREFIX, &mut share).await? {
            let missing = !self.any && !self.kind.stream;
            return if missing { Err(Status::invalid_argument("the call takes a message")) } else { Ok(None) };
        }
        if self.any && !self.kind.stream {
            return Err(Status::invalid_argument("the call takes one message, but several were sent"));
        }
        let packed = match self.buffer[0] {
            0 => false,
            1 => true,
            flag => return Err(Status::invalid_argument(format!("a frame begins with {flag}, which means nothing"))),
        };
        let length = self.buffer[1..PREFIX].iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
        if length > self.kind.limit {
            return Err(self.too_large());
        }
        let room = self.make_room(if packed { self.kind.limit } else { length }).await?;
        self.fill(PREFIX + length, &mut share).await?;
        let mut frame = self.buffer.split_to(PREFIX + length).freeze();
        if packed {
            frame = unpack(&frame, self.packing, self.kind.limit, &mut share).await?;
        }
        let weight = (self.kind.weigh)(&frame[PREFIX..]);
        if weight > self.kind.limit {
            return Err(self.too_large());
        }
        share.grow(frame.len() + weight).map_err(refused)?;
        self.under_way.put(Held { _share: share, _room: room });
        self.any = true;
        if self.kind.stream {
            self.deadline = None;
        }
        Ok(Some(frame))
    }

    /// Waits until so many bytes of this stream may be under way.
    async fn make_room(&mut self, length: usize) -> Result<OwnedSemaphorePermit, Status> {
        let room = Arc::clone(&self.room).acquire_many_owned(kib(length)).await;
        if self.kind.stream {
            // The client was kept waiting, and not the other way round.
            self.deadline = Some(Instant::now() + self.bodies.patience());
        }
        room.map_err(|_| Status::internal("the stream is closed"))
    }

    /// Reads until the buffer has so many bytes. `false`: the body ended before the first of them.
    async fn fill(&mut self, length: usize, share: &mut Share) -> Result<bool, Status> {
        let patience = self.bodies.patience();
        while self.buffer.len() < length {
            // Pieces without a byte may always be there, and then no timer is looked at.
            consume_budget().await;
            let too_slow = || refused(BodyError::TooSlow(patience));
            let frame = match self.deadline {
                None => self.body.frame().await,
                Some(deadline) if deadline <= Instant::now() => return Err(too_slow()),
                Some(deadline) => timeout_at(deadline, self.body.frame()).await.map_err(|_| too_slow())?,
            };
            let Some(frame) = frame else {
                return if self.buffer.is_empty() { Ok(false) } else { Err(refused(BodyError::Broken)) };
            };
            let Ok(data) = frame.map_err(|_| refused(BodyError::Broken))?.into_data() else { continue };
            self.deadline.get_or_insert_with(|| Instant::now() + patience);
            share.grow(self.buffer.len() + data.len()).map_err(refused)?;
            self.buffer.extend_from_slice(&data);
        }
        Ok(true)
    }

    fn too_large(&self) -> Status {
        refused(BodyError::TooLarge(self.kind.limit))
    }
}

/// The frame with its message unpacked, of at most `limit` bytes.
async fn unpack(frame: &Bytes, packing: Packing, limit: usize, share: &mut Share) -> Result<Bytes, Status> {
    let packed = &frame[PREFIX..];
    let mut unpacking: Box<dyn Read + Send + '_> = match packing {
        Packing::Gzip => Box::new(MultiGzDecoder::new(packed)),
        Packing::Deflate => Box::new(ZlibDecoder::new(packed)),
        Packing::None => return Err(Status::invalid_argument("a message is compressed, but grpc-encoding is missing")),
    };
    let mut unpacked = BytesMut::zeroed(PREFIX);
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
        share.grow(frame.len() + unpacked.len() + length).map_err(refused)?;
        unpacked.put_slice(&piece[..length]);
        tokio::task::yield_now().await;
    }
    let length = (unpacked.len() - PREFIX) as u32;
    unpacked[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    Ok(unpacked.freeze())
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

fn refused(error: BodyError) -> Status {
    Error::from(error).into()
}
