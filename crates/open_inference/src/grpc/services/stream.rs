//! Streaming inference, `ModelStreamInfer`.

use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::{StreamExt, unfold};
use http::{HeaderMap, HeaderValue, StatusCode};
use service::memory_budget::Reservation;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::infer::infer;
use crate::error::Error;
use crate::grpc::message::response::write_parameters;
use crate::grpc::proto::inference::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use crate::grpc::transport::InFlight;
use crate::request::output_options::MAX_ID_BYTES;
use crate::server::InferenceServer;
use crate::types::Parameter;

/// Maximum number of concurrent inferences per stream.
const MAX_PIPELINED: usize = 8;

/// An idle stream ends after this time when the server is not ready: a stopping server waits for its streams.
pub const UNREADY_IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Responses in the order of the requests. An invalid request gets an error response, and the stream continues; only an
/// error of the stream itself ends it. Backpressure: while the client does not read, no further requests are read.
pub fn infer_stream<S: InferenceServer>(
    server: S,
    messages: Streaming<ModelInferRequest>,
    headers: HeaderMap,
    in_flight: InFlight,
    max_bytes: usize,
    memory: Reservation,
) -> impl Stream<Item = Result<ModelStreamInferResponse, Status>> {
    request_stream(server.clone(), messages)
        .map(move |message| {
            // Reservations are in the order of the messages.
            let reserved = in_flight.pop();
            let (server, headers, memory) = (server.clone(), headers.clone(), memory.sibling());
            async move {
                let message = message?;
                let id = Some(&message.id).filter(|id| id.len() <= MAX_ID_BYTES).cloned().unwrap_or_default();
                let result = infer(&server, message, headers, max_bytes, memory).await;
                drop(reserved);
                Ok(match result {
                    Ok((response, headers)) => with_headers(response, &headers),
                    Err(error) => error_response(error, id),
                })
            }
        })
        .buffered(MAX_PIPELINED)
}

/// A stream has metadata only once, so each response carries its metadata as parameters.
fn with_headers(mut response: ModelInferResponse, headers: &HeaderMap) -> ModelStreamInferResponse {
    let text = |value: &HeaderValue| value.to_str().ok().map(Parameter::from);
    let headers = headers.iter().filter_map(|(name, value)| Some((name.to_string(), text(value)?)));
    response.parameters.extend(write_parameters(headers.chain([final_response()]).collect()));
    ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }
}

/// Marks the only response of each request as final, as Triton does. `triton_enable_empty_final_response` needs no
/// further response.
fn final_response() -> (String, Parameter) {
    ("triton_final_response".to_owned(), Parameter::Bool(true))
}

fn error_response(error: Error, id: String) -> ModelStreamInferResponse {
    let parameters = write_parameters([final_response()].into());
    let response = ModelInferResponse { id, parameters, ..Default::default() };
    // An empty error message would mean success.
    let message = Some(error.message).filter(|message| !message.is_empty()).unwrap_or_else(|| error.status.to_string());
    ModelStreamInferResponse { error_message: message, infer_response: Some(response) }
}

/// Requests of the client, until the client or the server ends the stream.
fn request_stream<S: InferenceServer>(
    server: S,
    messages: Streaming<ModelInferRequest>,
) -> impl Stream<Item = Result<ModelInferRequest, Status>> {
    unfold(Some(messages), move |messages| {
        let server = server.clone();
        async move {
            let mut messages = messages?;
            loop {
                match timeout(UNREADY_IDLE_TIMEOUT, messages.next()).await {
                    Ok(message) => return message.map(|message| (message, Some(messages))),
                    Err(_) if server.is_ready() => {}
                    Err(_) => {
                        let message = "the server is not ready; the stream has been idle and ends";
                        let error = Error::new(StatusCode::SERVICE_UNAVAILABLE, message);
                        return Some((Err(error.into()), None));
                    }
                }
            }
        }
    })
}
