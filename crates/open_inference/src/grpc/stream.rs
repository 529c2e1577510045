use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::{StreamExt, unfold};
use http::{HeaderMap, HeaderValue, StatusCode};
use service::memory_budget::Reservation;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::frames::UnderWay;
use super::infer::infer;
use super::proto::inference::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use super::response::write_parameters;
use crate::wishes::LONGEST_ID;
use crate::{Error, InferenceServer, Parameter};

/// Questions of one stream that are worked on at the same time.
const AT_ONCE: usize = 8;

/// A stream without a question ends after so long when the server is not ready: one that is stopping waits for its streams.
pub const UNREADY_PATIENCE: Duration = Duration::from_secs(5);

/// Answers in the order of the questions. What is wrong with one is its answer, and the stream goes on; only what breaks
/// the stream itself ends it. While the client does not read, nothing more is read from it.
pub fn answers<S: InferenceServer>(
    server: S,
    messages: Streaming<ModelInferRequest>,
    headers: HeaderMap,
    under_way: UnderWay,
    max_bytes: usize,
    memory: Reservation,
) -> impl Stream<Item = Result<ModelStreamInferResponse, Status>> {
    questions(server.clone(), messages)
        .map(move |message| {
            // They were put down in the order of the messages.
            let held = under_way.take();
            let (server, headers, memory) = (server.clone(), headers.clone(), memory.sibling());
            async move {
                let message = message?;
                let id = Some(&message.id).filter(|id| id.len() <= LONGEST_ID).cloned().unwrap_or_default();
                let answer = infer(&server, message, headers, max_bytes, memory).await;
                drop(held);
                Ok(match answer {
                    Ok((response, headers)) => answered(response, &headers),
                    Err(error) => failed(error, id),
                })
            }
        })
        .buffered(AT_ONCE)
}

/// A stream has metadata only once, so what a single call has there is among the parameters of each answer.
fn answered(mut response: ModelInferResponse, headers: &HeaderMap) -> ModelStreamInferResponse {
    let text = |value: &HeaderValue| value.to_str().ok().map(Parameter::from);
    let headers = headers.iter().filter_map(|(name, value)| Some((name.to_string(), text(value)?)));
    response.parameters.extend(write_parameters(headers.chain([final_response()]).collect()));
    ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }
}

/// Tells a client that waits for all responses to a request that this was the last. There is one for each, so every response
/// has it, as with Triton; `triton_enable_empty_final_response` asks for nothing more.
fn final_response() -> (String, Parameter) {
    ("triton_final_response".to_owned(), Parameter::Bool(true))
}

fn failed(error: Error, id: String) -> ModelStreamInferResponse {
    let parameters = write_parameters([final_response()].into());
    let response = ModelInferResponse { id, parameters, ..Default::default() };
    // An empty message would say that all went well.
    let words = Some(error.message).filter(|words| !words.is_empty()).unwrap_or_else(|| error.status.to_string());
    ModelStreamInferResponse { error_message: words, infer_response: Some(response) }
}

/// The client's messages, until it or the server ends them.
fn questions<S: InferenceServer>(
    server: S,
    messages: Streaming<ModelInferRequest>,
) -> impl Stream<Item = Result<ModelInferRequest, Status>> {
    unfold(Some(messages), move |messages| {
        let server = server.clone();
        async move {
            let mut messages = messages?;
            loop {
                match timeout(UNREADY_PATIENCE, messages.next()).await {
                    Ok(message) => return message.map(|message| (message, Some(messages))),
                    Err(_) if server.is_ready() => {}
                    Err(_) => {
                        let words = "the server is not ready; the stream has been idle and ends";
                        let error = Error::new(StatusCode::SERVICE_UNAVAILABLE, words);
                        return Some((Err(error.into()), None));
                    }
                }
            }
        }
    })
}
