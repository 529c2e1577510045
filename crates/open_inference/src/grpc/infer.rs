use http::HeaderMap;

use super::proto::inference::{ModelInferRequest, ModelInferResponse};
use super::request::{self, Question};
use super::response;
use crate::answer::{answer, large_off_thread};
use crate::names::check_names;
use crate::{Datatype, Error, InferRequest, InferenceServer, WireData, render, understand};

/// One question, one answer, and the headers that go with it. A message may have `max_bytes`.
pub async fn infer<S: InferenceServer>(
    server: &S,
    message: ModelInferRequest,
    headers: HeaderMap,
    max_bytes: usize,
) -> Result<(ModelInferResponse, HeaderMap), Error> {
    let Question { model: name, version, wire, typed } = request::read(message)?;
    check_names(&name, version.as_deref())?;
    let model = server.model(&name, version.as_deref())?;
    // Numbers are raw by now and stay where they are; only strings are gone through.
    let strings = wire.inputs.iter().filter(|input| input.datatype == Datatype::Bytes.name());
    let size = strings.map(|input| if let WireData::Raw(data) = &input.data { data.len() } else { 0 }).sum();
    let (model, understood) = large_off_thread(size, move || {
        let understood = understand(wire, &model, max_bytes);
        (model, understood)
    })
    .await;
    let (inputs, wishes) = understood?;
    let request = InferRequest { model: name, version, inputs, headers };
    let inference = answer(server, request, wishes.timeout).await?;
    let headers = inference.headers.clone();
    let size = inference.outputs.iter().map(|output| output.data.len()).sum();
    let write = move || render(&inference, &wishes, &model).map(|answer| response::write(answer, typed));
    Ok((large_off_thread(size, write).await?, headers))
}
