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
const LINGER: Duration = Duration::from_secs(2);

/// A request's body, lent to whoever answers: what an error leaves unread of it can be read afterwards.
pub(crate) struct Lent(oneshot::Receiver<Body>);

/// `None` where there is nothing to read.
pub(crate) fn lend(request: Request) -> (Request, Option<Lent>) {
    if request.body().is_end_stream() {
        return (request, None);
    }
    let (back, given_back) = oneshot::channel();
    let waits = request.headers().contains_key(header::EXPECT);
    let request = request.map(|body| Body::new(LentBody { body, waits, back: Some(back) }));
    (request, Some(Lent(given_back)))
}

impl Lent {
    /// Reads what is left of it when the answer is an error, for a while: a client that is still sending would otherwise
    /// see its connection reset instead of the answer.
    pub async fn read_the_rest(mut self, status: StatusCode) {
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
            let _ = timeout(LINGER, rest).await;
        }
    }
}

/// A request's body that comes back when its reader drops it.
struct LentBody {
    body: Body,
    /// `Expect: 100-continue`: the client sends nothing before the first look at its body, and may never.
    waits: bool,
    back: Option<oneshot::Sender<Body>>,
}

impl HttpBody for LentBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.waits = false;
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for LentBody {
    fn drop(&mut self) {
        // What has been read to its end need not come back.
        if !self.waits
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
            let (request, lent) = lend(request);
            let status = app.clone().oneshot(request).await.unwrap().status();
            lent.unwrap().read_the_rest(status).await;
            assert_eq!(pieces.load(Ordering::Relaxed), read, "{path} {expect:?}");
        }
    }
}
