use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::Semaphore;

use crate::{Error, InferRequest, Inference, InferenceServer};

/// Reading or writing more than this in JSON takes longer than others on the same thread should wait.
pub(crate) const LARGE: usize = 256 << 10;

/// As many large ones at the same time as there are cores: more would take memory and get nobody done sooner.
static WORKBENCH: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(available_parallelism().map_or(1, usize::from))));

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
    let place = Arc::clone(&WORKBENCH).acquire_owned().await.expect("nobody closes the workbench");
    let work = move || {
        // Held by the work and not by who waits for it: work goes on when its caller has gone.
        let _place = place;
        work()
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
