use std::time::Duration;

use http::StatusCode;

use crate::{Error, InferRequest, Inference, InferenceServer};

/// Reading or writing more than this in JSON takes longer than others on the same thread should wait.
const LARGE: usize = 256 << 10;

/// Asks the server, and gives up when the caller's time is over: the future is dropped, and with it the request.
pub(crate) async fn answer<S: InferenceServer>(
    server: &S,
    request: InferRequest,
    timeout: Option<Duration>,
) -> Result<Inference, Error> {
    let Some(timeout) = timeout else { return server.infer(request).await };
    let words = || format!("there was no answer within the {timeout:?} that the request allows");
    let over = |_| Error::new(StatusCode::GATEWAY_TIMEOUT, words());
    tokio::time::timeout(timeout, server.infer(request)).await.map_err(over)?
}

/// Does a piece of work here, or where `size` bytes make it long, on a thread where nobody waits for it.
pub(crate) async fn large_off_thread<T: Send + 'static>(size: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if size <= LARGE {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
