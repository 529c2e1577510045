//! Execution of an inference request with the timeout that the request sets. All transports end here.

use std::time::Duration;

use http::StatusCode;

use crate::error::Error;
use crate::server::InferenceServer;
use crate::types::{InferRequest, Inference};

/// Runs the request. When `timeout` has passed, the server's future is dropped, which cancels the inference.
pub(crate) async fn run_with_timeout<S: InferenceServer>(
    server: &S,
    request: InferRequest,
    timeout: Option<Duration>,
) -> Result<Inference, Error> {
    let Some(timeout) = timeout else { return server.infer(request).await };
    let message = || format!("the request timed out: no response within its timeout of {timeout:?}");
    let timed_out = |_| Error::new(StatusCode::GATEWAY_TIMEOUT, message());
    tokio::time::timeout(timeout, server.infer(request)).await.map_err(timed_out)?
}
