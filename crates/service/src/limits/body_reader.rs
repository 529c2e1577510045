//! Reads request bodies within limits on size, time, data rate and memory.

use std::time::Duration;

use axum::body::{Body, HttpBody};
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

/// Reader of request bodies. One per process: clones share the memory budget.
#[derive(Clone, Debug)]
pub struct BodyReader {
    max_bytes: usize,
    timeout: Duration,
    budget: MemoryBudget,
}

/// A request body with its memory reservation.
#[derive(Debug)]
pub struct ReadBody {
    /// The body.
    pub bytes: Bytes,
    /// Reservation for the body and for data derived from it.
    pub reservation: Reservation,
}

impl BodyReader {
    /// Reader with the limits of `settings`.
    pub fn new(settings: &ServerSettings) -> Self {
        Self {
            max_bytes: settings.max_body_bytes,
            timeout: settings.body_timeout,
            budget: MemoryBudget::new(settings.body_memory_bytes),
        }
    }

    /// Size limit of one body.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Timeout of one body.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Memory budget of all bodies.
    pub fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Empty reservation without a client address.
    pub fn reservation(&self) -> Reservation {
        self.budget.reservation(None)
    }

    /// Empty reservation for the client of this request.
    pub fn reservation_for(&self, parts: &Parts) -> Reservation {
        self.budget.reservation(parts.extensions.get::<Peer>().copied())
    }

    /// Reads the whole body of the request with these `parts`. A declared length over the limit is rejected before the
    /// first byte is read.
    pub async fn read(&self, parts: &Parts, mut body: Body) -> Result<ReadBody, BodyError> {
        let length = declared_length(&parts.headers);
        if length.is_some_and(|length| length > self.max_bytes as u64) {
            return Err(BodyError::TooLarge(self.max_bytes));
        }
        let length = length.and_then(|length| usize::try_from(length).ok());
        let mut reservation = self.reservation_for(parts);
        let (mut first, mut buffer) = (Bytes::new(), ReservedBuffer::default());
        let mut deadline = BodyTimeout::new(self.timeout);
        // A body that is known to have ended is not polled again: most end with their first chunk, and each wait may set a
        // timer.
        while !body.is_end_stream()
            && let Some(frame) = deadline.wait(reservation.bytes(), body.frame()).await?
        {
            // A decompressing body is always ready. Without yielding here, a decompression bomb would monopolize the
            // thread.
            tokio::task::coop::consume_budget().await;
            let Ok(data) = frame.map_err(|_| BodyError::Incomplete)?.into_data() else { continue };
            deadline.add(data.len());
            if first.len() + buffer.len() + data.len() > self.max_bytes {
                return Err(BodyError::TooLarge(self.max_bytes));
            }
            if first.is_empty() && buffer.is_empty() {
                // Most bodies arrive as one chunk, which is not copied.
                reservation.reserve(data.len())?;
                first = data;
                continue;
            }
            let head = std::mem::take(&mut first);
            if !head.is_empty() {
                buffer.extend(&head, length, self.max_bytes, &mut reservation)?;
                reservation.release(head.len());
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

    /// Body of `chunks` chunks of 64 KiB, one per `interval`.
    fn slow(chunks: usize, interval: Duration) -> Body {
        Body::from_stream(futures_util::stream::iter(0..chunks).then(move |_| async move {
            tokio::time::sleep(interval).await;
            Ok::<_, Infallible>(Bytes::from(vec![0; 64 << 10]))
        }))
    }

    #[tokio::test]
    async fn body_over_the_limit_is_rejected_with_and_without_a_declared_length() {
        let reader = reader(10, MIB);
        let none = parts(&[], None);
        assert_eq!(reader.read(&none, Body::from("0123456789")).await.unwrap().bytes, "0123456789");
        assert_eq!(reader.read(&none, Body::from("0123456789a")).await.unwrap_err(), BodyError::TooLarge(10));
        let declared = parts(&[(header::CONTENT_LENGTH, 11)], None);
        assert_eq!(reader.read(&declared, Body::empty()).await.unwrap_err(), BodyError::TooLarge(10));
    }

    #[tokio::test]
    async fn reading_a_ready_body_yields_to_other_tasks() {
        let chunks = futures_util::stream::iter((0..1000).map(|_| Ok::<_, Infallible>(Bytes::from_static(b"x"))));
        let other = tokio::spawn(async {});
        reader(1000, MIB).read(&parts(&[], None), Body::from_stream(chunks)).await.unwrap();
        assert!(other.is_finished());
    }

    #[tokio::test]
    async fn body_reserves_its_capacity_and_releases_it_on_drop() {
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
    async fn stalled_uploads_leave_memory_for_other_clients_and_time_out() {
        let reader = reader(8 * MIB, 16 * MIB);
        let stalled: Vec<_> = (0..4)
            .map(|_| {
                let reader = reader.clone();
                // 4 MiB immediately, then nothing.
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
        assert_eq!(other.unwrap().bytes.len(), MIB, "another client has memory");
        tokio::time::sleep(DATA_RATE_WINDOW).await;
        for stalled in stalled {
            let error = stalled.await.unwrap().unwrap_err();
            assert!(matches!(error, BodyError::Stalled | BodyError::NoMemory), "{error}");
        }
        assert_eq!(reader.budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_body_above_the_minimum_data_rate_has_the_whole_timeout() {
        let reader = reader(8 * MIB, 16 * MIB);
        let read = reader.read(&parts(&[], None), slow(9, Duration::from_secs(2))).await;
        assert_eq!(read.unwrap().bytes.len(), 9 << 16);
        let read = reader.read(&parts(&[], None), slow(9, Duration::from_secs(5))).await;
        assert_eq!(read.unwrap_err(), BodyError::Stalled);
        let read = reader.read(&parts(&[], None), slow(20, Duration::from_secs(2))).await;
        assert_eq!(read.unwrap_err(), BodyError::TooSlow(Duration::from_secs(30)));
    }

    #[tokio::test(start_paused = true)]
    async fn body_that_does_not_arrive_times_out() {
        let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, Infallible>>());
        let error = reader(10, MIB).read(&parts(&[], None), never).await.unwrap_err();
        assert_eq!(error, BodyError::TooSlow(Duration::from_secs(30)));
    }

    #[tokio::test]
    async fn empty_chunks_do_not_extend_the_timeout() {
        let empty = Body::from_stream(futures_util::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::new())));
        let timeout = Duration::from_millis(50);
        let error = BodyReader { timeout, ..reader(10, MIB) }.read(&parts(&[], None), empty).await.unwrap_err();
        assert_eq!(error, BodyError::TooSlow(timeout));
    }
}
