//! Call deadlines from `grpc-timeout`.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

use crate::error::Error;

/// Longer timeouts are truncated, so that no clock overflows.
const MAX_TIMEOUT: Duration = Duration::from_hours(24 * 365);

/// Deadline of a call from `grpc-timeout`: at most eight digits and a unit.
pub fn parse_deadline(headers: &HeaderMap) -> Result<Option<Instant>, Status> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let timeout = value.to_str().ok().and_then(parse);
    let timeout = timeout
        .ok_or_else(|| Status::invalid_argument("grpc-timeout is not a number of at most 8 digits and a unit"))?;
    Ok(Some(Instant::now() + timeout.min(MAX_TIMEOUT)))
}

fn parse(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The error of a call that exceeds its deadline.
pub fn deadline_exceeded() -> Error {
    Error::new(StatusCode::GATEWAY_TIMEOUT, "the call exceeded its deadline (grpc-timeout)")
}

/// Ends the response at the deadline with an error status in its trailers.
pub fn end_at_deadline(deadline: Instant, body: Body) -> Body {
    Body::new(DeadlineBody { body: Some(body), deadline: Box::pin(sleep_until(deadline)) })
}

struct DeadlineBody {
    /// `None` after the deadline. Dropping the body cancels its producer.
    body: Option<Body>,
    deadline: Pin<Box<Sleep>>,
}

impl HttpBody for DeadlineBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        ready!(self.deadline.as_mut().poll(cx));
        self.body = None;
        let mut trailers = HeaderMap::new();
        // A status that does not fit the trailers is sent without its message.
        let _ = Status::from(deadline_exceeded()).add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_a_number_and_a_unit() {
        for (value, timeout) in [
            ("1H", Some(Duration::from_hours(1))),
            ("2M", Some(Duration::from_mins(2))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("5m", Some(Duration::from_millis(5))),
            ("5u", Some(Duration::from_micros(5))),
            ("5n", Some(Duration::from_nanos(5))),
            ("0S", Some(Duration::ZERO)),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("1s", None),
            ("+1S", None),
            ("1é", None),
        ] {
            assert_eq!(parse(value), timeout, "{value}");
        }
    }
}
