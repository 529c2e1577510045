//! Lingering close: drains the rest of a request body after an error response.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Time for which the rest of a body is read and discarded after an error response.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// Handle to the unread rest of a request body, for use after the response.
pub(crate) struct DrainHandle(oneshot::Receiver<Body>);

/// Makes the body of a request drainable. The handle is `None` if there is nothing to read.
pub(crate) fn drainable(request: Request) -> (Request, Option<DrainHandle>) {
    if request.body().is_end_stream() {
        return (request, None);
    }
    let (returns, returned) = oneshot::channel();
    let expects_continue = request.headers().contains_key(header::EXPECT);
    let request = request.map(|body| Body::new(DrainableBody { body, expects_continue, returns: Some(returns) }));
    (request, Some(DrainHandle(returned)))
}

impl DrainHandle {
    /// Drains the body for up to [`LINGER_TIMEOUT`] if the response is an error. A client that is still sending would
    /// otherwise see a connection reset instead of the response.
    pub async fn drain(mut self, status: StatusCode) {
        // After a 408 the client is not sending.
        if (status.is_client_error() || status.is_server_error())
            && status != StatusCode::REQUEST_TIMEOUT
            && let Ok(mut body) = self.0.try_recv()
        {
            let rest = async {
                while let Some(Ok(_)) = body.frame().await {
                    tokio::task::coop::consume_budget().await;
                }
            };
            let _ = timeout(LINGER_TIMEOUT, rest).await;
        }
    }
}

/// Request body that returns to its handle when the reader drops it.
struct DrainableBody {
    body: Body,
    /// `Expect: 100-continue`: the client sends nothing before the body is first polled, and may never send anything.
    expects_continue: bool,
    returns: Option<oneshot::Sender<Body>>,
}

impl HttpBody for DrainableBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.expects_continue = false;
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for DrainableBody {
    fn drop(&mut self) {
        // A completely read body is not returned.
        if !self.expects_continue
            && !self.body.is_end_stream()
            && let Some(returns) = self.returns.take()
        {
            let _ = returns.send(std::mem::take(&mut self.body));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn unread_body_is_drained_after_an_error_unless_the_client_expects_continue() {
        use std::sync::atomic::{AtomicUsize, Ordering};

        use axum::Router;
        use axum::routing::post;
        use tower::ServiceExt;

        let app = Router::new()
            .route("/rejected", post(|| async { StatusCode::FORBIDDEN }))
            .route("/fine", post(|| async {}));
        for (path, expect, read) in [("/rejected", None, 3), ("/rejected", Some("100-continue"), 0), ("/fine", None, 0)]
        {
            let chunks = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&chunks);
            let body = futures_util::stream::iter(0..3).map(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Infallible>(Bytes::from_static(b"x"))
            });
            let mut request = Request::post(path).body(Body::from_stream(body)).unwrap();
            request.headers_mut().extend(expect.map(|value| (header::EXPECT, value.parse().unwrap())));
            let (request, drain_handle) = drainable(request);
            let status = app.clone().oneshot(request).await.unwrap().status();
            drain_handle.unwrap().drain(status).await;
            assert_eq!(chunks.load(Ordering::Relaxed), read, "{path} {expect:?}");
        }
    }
}
