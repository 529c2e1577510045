use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, header};
use http_body_util::BodyExt;

use super::body_error::BodyError;
use super::body_timeout::BodyTimeout;
use super::memory_budget::{MemoryBudget, Reservation};
use super::reserved_buffer::ReservedBuffer;
use crate::peer::Peer;
use crate::settings::ServerSettings;

/// The bounds within which bodies are read. One for the whole process: clones reservation the memory.
#[derive(Clone, Debug)]
pub struct BodyReader {
    max_bytes: usize,
    timeout: Duration,
    budget: MemoryBudget,
}

/// A body, and the memory that is reserved for it until it is dropped.
#[derive(Debug)]
pub struct ReadBody {
    /// What the client sent.
    pub bytes: Bytes,
    /// For the body, and for what is made of it.
    pub reservation: Reservation,
}

impl BodyReader {
    /// Bounds as the settings say.
    pub fn new(settings: &ServerSettings) -> Self {
        Self {
            max_bytes: settings.max_body_bytes,
            timeout: settings.body_timeout,
            budget: MemoryBudget::new(settings.body_memory_bytes),
        }
    }

    /// The most bytes that one body may have.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// How long a body may take to come.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The memory of all bodies.
    pub fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// An empty reservation on behalf of no particular client.
    pub fn reservation(&self) -> Reservation {
        self.budget.reservation(None)
    }

    /// An empty reservation on behalf of the client of this request.
    pub fn reservation_for(&self, parts: &Parts) -> Reservation {
        self.budget.reservation(parts.extensions.get::<Peer>().copied())
    }

    /// Reads the whole body of the request with these `parts`. A declared length over the limit is refused before the first
    /// byte is read.
    pub async fn read(&self, parts: &Parts, mut body: Body) -> Result<ReadBody, BodyError> {
        let length = declared_length(&parts.headers);
        if length.is_some_and(|length| length > self.max_bytes as u64) {
            return Err(BodyError::TooLarge(self.max_bytes));
        }
        let length = length.and_then(|length| usize::try_from(length).ok());
        let mut reservation = self.reservation_for(parts);
        let (mut first, mut buffer) = (Bytes::new(), ReservedBuffer::default());
        let mut deadline = BodyTimeout::new(self.timeout);
        while let Some(frame) = deadline.wait(reservation.bytes(), body.frame()).await? {
            // What unpacks is always there: without this, a bomb would have the thread to itself.
            tokio::task::coop::consume_budget().await;
            let Ok(data) = frame.map_err(|_| BodyError::Incomplete)?.into_data() else { continue };
            deadline.add(data.len());
            if first.len() + buffer.len() + data.len() > self.max_bytes {
                return Err(BodyError::TooLarge(self.max_bytes));
            }
            if first.is_empty() && buffer.is_empty() {
                // Most bodies come in one piece, which is not copied.
                reservation.reserve(data.len())?;
                first = data;
                continue;
            }
            let before = std::mem::take(&mut first);
            if !before.is_empty() {
                buffer.extend(&before, length, self.max_bytes, &mut reservation)?;
                reservation.release(before.len());
            }
            buffer.extend(&data, length, self.max_bytes, &mut reservation)?;
        }
        let bytes = if buffer.is_empty() { first } else { buffer.into_vec().into() };
        Ok(ReadBody { bytes, reservation })
    }
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::StreamExt;

    use super::*;
    use crate::limits::body_error::DATA_RATE_WINDOW;

    const MIB: usize = 1 << 20;

    fn reader(max_bytes: usize, memory: usize) -> BodyReader {
        BodyReader { max_bytes, timeout: Duration::from_secs(30), budget: MemoryBudget::new(memory) }
    }

    fn parts(headers: &[(header::HeaderName, usize)], peer: Option<u8>) -> Parts {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.headers.extend(headers.iter().map(|(name, value)| (name.clone(), (*value).into())));
        if let Some(last) = peer {
            parts.extensions.insert(Peer([192, 0, 2, last].into()));
        }
        parts
    }

    /// So many pieces of 64 KiB, one each `pause`.
    fn slow(pieces: usize, pause: Duration) -> Body {
        Body::from_stream(futures_util::stream::iter(0..pieces).then(move |_| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, Infallible>(Bytes::from(vec![0; 64 << 10]))
        }))
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_with_and_without_a_declared_length() {
        let reader = reader(10, MIB);
        let none = parts(&[], None);
        assert_eq!(reader.read(&none, Body::from("0123456789")).await.unwrap().bytes, "0123456789");
        assert_eq!(reader.read(&none, Body::from("0123456789a")).await.unwrap_err(), BodyError::TooLarge(10));
        let declared = parts(&[(header::CONTENT_LENGTH, 11)], None);
        assert_eq!(reader.read(&declared, Body::empty()).await.unwrap_err(), BodyError::TooLarge(10));
    }

    #[tokio::test]
    async fn others_get_a_turn_while_a_body_is_read_that_is_there_already() {
        let pieces = futures_util::stream::iter((0..1000).map(|_| Ok::<_, Infallible>(Bytes::from_static(b"x"))));
        let other = tokio::spawn(async {});
        reader(1000, MIB).read(&parts(&[], None), Body::from_stream(pieces)).await.unwrap();
        assert!(other.is_finished());
    }

    #[tokio::test]
    async fn a_body_holds_its_capacity_and_the_memory_comes_back() {
        let reader = reader(10 * MIB, 64 * MIB);
        for headers in [&[][..], &[(header::CONTENT_LENGTH, 5 * MIB)]] {
            let body = reader.read(&parts(headers, None), slow(80, Duration::ZERO)).await.unwrap();
            assert_eq!(body.bytes.len(), 5 * MIB);
            let reserved = body.reservation.bytes();
            assert!((5 * MIB..=8 * MIB).contains(&reserved), "{reserved}");
            assert!(headers.is_empty() || reserved == 5 * MIB, "{reserved}");
            assert_eq!(reader.budget.used(), reserved);
        }
        assert_eq!(reader.budget.used(), 0);
        let error = self::reader(10 * MIB, 5 * MIB).read(&parts(&[], None), slow(80, Duration::ZERO)).await;
        assert_eq!(error.unwrap_err(), BodyError::TooMuchMemory { max: 4 * MIB });
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_uploads_of_one_client_leave_room_for_another_and_end_soon() {
        let reader = reader(8 * MIB, 16 * MIB);
        let stalled: Vec<_> = (0..4)
            .map(|_| {
                let reader = reader.clone();
                // Four mebibytes at once, and then nothing.
                let stream =
                    futures_util::stream::iter((0..64).map(|_| Ok::<_, Infallible>(Bytes::from(vec![0; 64 << 10]))));
                let body = Body::from_stream(stream.chain(futures_util::stream::pending()));
                tokio::spawn(
                    async move { reader.read(&parts(&[(header::CONTENT_LENGTH, 8 * MIB)], Some(1)), body).await },
                )
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(reader.budget.used() <= 13 * MIB, "{}", reader.budget.used());
        let other = reader.read(&parts(&[], Some(2)), slow(16, Duration::ZERO)).await;
        assert_eq!(other.unwrap().bytes.len(), MIB, "another client has room");
        tokio::time::sleep(DATA_RATE_WINDOW).await;
        for stalled in stalled {
            let error = stalled.await.unwrap().unwrap_err();
            assert!(matches!(error, BodyError::Stalled | BodyError::NoMemory), "{error}");
        }
        assert_eq!(reader.budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_that_keeps_the_pace_may_take_all_its_time() {
        let reader = reader(8 * MIB, 16 * MIB);
        let read = reader.read(&parts(&[], None), slow(9, Duration::from_secs(2))).await;
        assert_eq!(read.unwrap().bytes.len(), 9 << 16);
        let read = reader.read(&parts(&[], None), slow(9, Duration::from_secs(5))).await;
        assert_eq!(read.unwrap_err(), BodyError::Stalled);
        let read = reader.read(&parts(&[], None), slow(20, Duration::from_secs(2))).await;
        assert_eq!(read.unwrap_err(), BodyError::TooSlow(Duration::from_secs(30)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, Infallible>>());
        let error = reader(10, MIB).read(&parts(&[], None), never).await.unwrap_err();
        assert_eq!(error, BodyError::TooSlow(Duration::from_secs(30)));
    }

    #[tokio::test]
    async fn pieces_of_nothing_are_no_body_that_comes() {
        let empty = Body::from_stream(futures_util::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::new())));
        let timeout = Duration::from_millis(50);
        let error = BodyReader { timeout, ..reader(10, MIB) }.read(&parts(&[], None), empty).await.unwrap_err();
        assert_eq!(error, BodyError::TooSlow(timeout));
    }
}
