//! Response bodies that hold a guard until they are sent: a memory reservation, or a count.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::body_error::BodyError;
use super::memory_budget::{EXEMPT_BYTES, Reservation};

/// Reserves the body of a response of known length until it is sent, because a slow reader makes the server hold it.
/// Responses of up to [`EXEMPT_BYTES`] are returned unchanged.
pub fn reserve_response(response: Response, mut memory: Reservation) -> Result<Response, BodyError> {
    let bytes = response.body().size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
    if bytes <= EXEMPT_BYTES {
        return Ok(response);
    }
    memory.reserve(bytes)?;
    Ok(response.map(|body| Body::new(GuardedBody::new(body, memory))))
}

/// Body that drops `T` when it has been sent, or never will be.
pub(crate) struct GuardedBody<T> {
    body: Body,
    _guard: T,
}

impl<T> GuardedBody<T> {
    pub fn new(body: Body, guard: T) -> Self {
        Self { body, _guard: guard }
    }
}

impl<T: Unpin> HttpBody for GuardedBody<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::memory_budget::MemoryBudget;

    #[tokio::test]
    async fn only_large_responses_are_reserved_until_dropped() {
        let budget = MemoryBudget::new(1 << 20);
        let response = |bytes: usize| Response::new(Body::from(vec![7; bytes]));
        let small = reserve_response(response(EXEMPT_BYTES), budget.shared_reservation()).unwrap();
        assert_eq!(budget.used(), 0);
        let large = reserve_response(response(EXEMPT_BYTES + 1), budget.shared_reservation()).unwrap();
        assert_eq!(
            (budget.used(), large.body().size_hint().exact()),
            (EXEMPT_BYTES + 1, Some(EXEMPT_BYTES as u64 + 1))
        );
        drop((small, large));
        assert_eq!(budget.used(), 0);
        assert!(reserve_response(response(2 << 20), budget.shared_reservation()).is_err());
    }
}
