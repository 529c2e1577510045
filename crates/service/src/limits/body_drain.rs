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

/// After a refusal the rest of the body is read and thrown away for so long.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// A request's body, drain_handle to whoever answers: what an error leaves unread of it can be read afterwards.
pub(crate) struct DrainHandle(oneshot::Receiver<Body>);

/// `None` where there is nothing to read.
pub(crate) fn drainable(request: Request) -> (Request, Option<DrainHandle>) {
    if request.body().is_end_stream() {
        return (request, None);
    }
    let (back, returned) = oneshot::channel();
    let expects_continue = request.headers().contains_key(header::EXPECT);
    let request = request.map(|body| Body::new(DrainableBody { body, expects_continue, back: Some(back) }));
    (request, Some(DrainHandle(returned)))
}

impl DrainHandle {
    /// Reads what is left of it when the answer is an error, for a while: a client that is still sending would otherwise
    /// see its connection reset instead of the answer.
    pub async fn drain(mut self, status: StatusCode) {
        // After a 408 there is nothing to read: that client does not send.
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

/// A request's body that comes back when its reader drops it.
struct DrainableBody {
    body: Body,
    /// `Expect: 100-continue`: the client sends nothing before the first look at its body, and may never.
    expects_continue: bool,
    back: Option<oneshot::Sender<Body>>,
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
        // What has been read to its end need not come back.
        if !self.expects_continue
            && !self.body.is_end_stream()
            && let Some(back) = self.back.take()
        {
            let _ = back.send(std::mem::take(&mut self.body));
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
    async fn what_a_refusal_leaves_unread_is_read_unless_the_client_waits() {
        use std::sync::atomic::{AtomicUsize, Ordering};

        use axum::Router;
        use axum::routing::post;
        use tower::ServiceExt;

        let app =
            Router::new().route("/refused", post(|| async { StatusCode::FORBIDDEN })).route("/fine", post(|| async {}));
        for (path, expect, read) in [("/refused", None, 3), ("/refused", Some("100-continue"), 0), ("/fine", None, 0)] {
            let pieces = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&pieces);
            let body = futures_util::stream::iter(0..3).map(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Infallible>(Bytes::from_static(b"x"))
            });
            let mut request = Request::post(path).body(Body::from_stream(body)).unwrap();
            request.headers_mut().extend(expect.map(|value| (header::EXPECT, value.parse().unwrap())));
            let (request, drain_handle) = drainable(request);
            let status = app.clone().oneshot(request).await.unwrap().status();
            drain_handle.unwrap().drain(status).await;
            assert_eq!(pieces.load(Ordering::Relaxed), read, "{path} {expect:?}");
        }
    }
}
