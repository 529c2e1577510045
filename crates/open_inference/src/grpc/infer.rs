use std::mem::take;

use bytes::Bytes;
use http::HeaderMap;
use service::memory_budget::Reservation;

use super::contents;
use super::proto::inference::{ModelInferRequest, ModelInferResponse};
use super::request::{self, Question};
use super::response;
use crate::answer::{answer, large_off_thread};
use crate::names::check_names;
use crate::{Datatype, Error, InferRequest, InferenceServer, decode_request, encode_response};

/// One question, one answer, and the headers that go with it. A message may have `max_bytes`; what its
/// tensors take beside it is reserved in `memory` until it is answered.
pub async fn infer<S: InferenceServer>(
    server: &S,
    mut message: ModelInferRequest,
    headers: HeaderMap,
    max_bytes: usize,
    mut memory: Reservation,
) -> Result<(ModelInferResponse, HeaderMap), Error> {
    let (name, version) = (take(&mut message.model_name), request::version(take(&mut message.model_version)));
    check_names(&name, version.as_deref())?;
    let model = server.model(&name, version.as_deref())?;
    let (model, memory, understood) = large_off_thread(size(&message), move || {
        let understood = request::read(message)
            .and_then(|Question { wire, typed }| Ok((decode_request(wire, &model, max_bytes, &mut memory)?, typed)));
        (model, memory, understood)
    })
    .await;
    let ((inputs, wishes), typed) = understood?;
    let request = InferRequest { model: name, version, inputs, headers };
    let inference = answer(server, request, wishes.timeout).await?;
    drop(memory);
    let headers = inference.headers.clone();
    let size = inference.outputs.iter().map(|output| output.data.len()).sum();
    let write = move || encode_response(&inference, &wishes, &model).map(|answer| response::write(answer, typed));
    Ok((large_off_thread(size, write).await?, headers))
}

/// Bytes that are gone through; raw numbers are only passed on, unless they are cells of a table.
fn size(message: &ModelInferRequest) -> usize {
    let typed: usize = message.inputs.iter().filter_map(|input| input.contents.as_ref()).map(contents::size).sum();
    let has_strings = message.inputs.iter().any(|input| input.datatype == Datatype::Bytes.name());
    let mut parameters = message.inputs.iter().map(|input| &input.parameters).chain([&message.parameters]);
    if has_strings || parameters.any(|parameters| parameters.contains_key("content_type")) {
        typed + message.raw_input_contents.iter().map(Bytes::len).sum::<usize>()
    } else {
        typed
    }
}
