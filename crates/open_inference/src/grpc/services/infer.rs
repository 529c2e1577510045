//! Inference of a single message, for unary calls and streams.

use std::mem::take;

use bytes::Bytes;
use http::HeaderMap;
use service::memory_budget::Reservation;

use crate::blocking_pool;
use crate::error::Error;
use crate::execute::run_with_timeout;
use crate::grpc::message::request::DecodedRequest;
use crate::grpc::message::{contents, request, response};
use crate::grpc::proto::inference::{ModelInferRequest, ModelInferResponse};
use crate::request::decode_request;
use crate::request::model_name::validate_model_name;
use crate::response::encode_response;
use crate::server::InferenceServer;
use crate::types::{Datatype, InferRequest};

/// Runs one inference request, and returns the response with its metadata. A message may have `max_bytes`. Memory for
/// its tensors is reserved in `memory` until the inference has completed.
pub async fn infer<S: InferenceServer>(
    server: &S,
    mut message: ModelInferRequest,
    headers: HeaderMap,
    max_bytes: usize,
    mut memory: Reservation,
) -> Result<(ModelInferResponse, HeaderMap), Error> {
    let (name, version) = (take(&mut message.model_name), request::optional_version(take(&mut message.model_version)));
    validate_model_name(&name, version.as_deref())?;
    let model = server.model(&name, version.as_deref())?;
    let (model, memory, decoded) = blocking_pool::run(processed_bytes(&message), move || {
        let decoded = request::parse(message).and_then(|DecodedRequest { wire, typed }| {
            Ok((decode_request(wire, &model, max_bytes, &mut memory)?, typed))
        });
        (model, memory, decoded)
    })
    .await;
    let ((inputs, options), typed) = decoded?;
    let request = InferRequest { model: name, version, inputs, headers };
    let inference = run_with_timeout(server, request, options.timeout).await?;
    drop(memory);
    let headers = inference.headers.clone();
    let size = inference.outputs.iter().map(|output| output.data.len()).sum();
    let encode = move || encode_response(&inference, &options, &model).map(|response| response::write(response, typed));
    Ok((blocking_pool::run(size, encode).await?, headers))
}

/// Number of bytes that decoding processes. Raw numbers are passed on without a copy, except for columns of a table.
fn processed_bytes(message: &ModelInferRequest) -> usize {
    let typed: usize =
        message.inputs.iter().filter_map(|input| input.contents.as_ref()).map(contents::content_bytes).sum();
    let has_strings = message.inputs.iter().any(|input| input.datatype == Datatype::Bytes.name());
    let mut parameters = message.inputs.iter().map(|input| &input.parameters).chain([&message.parameters]);
    if has_strings || parameters.any(|parameters| parameters.contains_key("content_type")) {
        typed + message.raw_input_contents.iter().map(Bytes::len).sum::<usize>()
    } else {
        typed
    }
}
