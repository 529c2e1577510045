use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use service::body_limits::ReadBody;
use service::response_body::reserve_response;

use super::asked::Asked;
use super::request::{ReadRequest, read_body, read_wire};
use super::{Rest, reply};
use crate::answer::{answer, large_off_thread};
use crate::json::weight;
use crate::{
    Error, InferRequest, Inference, InferenceServer, ModelMetadata, Task, Tensor, TensorMetadata, Wishes, binary,
    render, understand, write_response,
};

/// `POST …/infer`
pub(super) async fn infer<S: InferenceServer>(
    State(rest): State<Rest<S>>,
    asked: Asked,
    request: Request,
) -> Result<Response, Error> {
    let Answered { headers, form, model, wishes, inference } = ask(&rest, asked, request, form).await?;
    let answer_headers = inference.headers.clone();
    let mut response = if reply::is_known(&headers, &answer_headers) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if form == Form::Picture {
        reply::picture(large_off_thread(usize::MAX, move || one_picture(&inference, &wishes, &model)).await?)
    } else {
        write(inference, wishes, model, reply::inference).await?
    };
    response.headers_mut().extend(answer_headers);
    Ok(reserve_response(response, rest.bodies.budget().shared_reservation())?)
}

/// `POST …/infer_stream`: server-sent events, of which there is one, for a model gives one answer.
pub(super) async fn infer_stream<S: InferenceServer>(
    State(rest): State<Rest<S>>,
    asked: Asked,
    request: Request,
) -> Result<Response, Error> {
    let in_json = |_: &HeaderMap, _: &ModelMetadata, wishes: &mut Wishes| {
        wishes.all_in_json();
        Ok(Form::Tensors)
    };
    let Answered { wishes, inference, model, .. } = ask(&rest, asked, request, in_json).await?;
    let headers = inference.headers.clone();
    let mut response = write(inference, wishes, model, |response| reply::event(&response.json)).await?;
    response.headers_mut().extend(headers);
    Ok(reserve_response(response, rest.bodies.budget().shared_reservation())?)
}

/// A question, answered but not yet written.
struct Answered {
    headers: HeaderMap,
    form: Form,
    model: Arc<ModelMetadata>,
    wishes: Wishes,
    inference: Inference,
}

/// What the answer's body is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// All that was asked for.
    Tensors,
    /// The PNG of one output.
    Picture,
}

/// `form` has the last word on the wishes, before the model is asked.
async fn ask<S: InferenceServer>(
    rest: &Rest<S>,
    asked: Asked,
    request: Request,
    form: impl FnOnce(&HeaderMap, &ModelMetadata, &mut Wishes) -> Result<Form, Error>,
) -> Result<Answered, Error> {
    let Asked { model: name, version } = asked;
    let model = rest.server.model(&name, version.as_deref())?;
    let ReadRequest { headers, body } = read_body(rest, request).await?;
    let max_bytes = rest.bodies.max_bytes();
    let (headers, model, mut body, understood) = large_off_thread(body.bytes.len(), move || {
        let mut body = body;
        let understood = read_inputs(&headers, &mut body, &model, max_bytes);
        (headers, model, body, understood)
    })
    .await;
    let (inputs, mut wishes) = understood?;
    let form = form(&headers, &model, &mut wishes)?;
    // Tensors out of JSON are not in the body, which is not kept then.
    if !body.bytes.is_empty() && body.bytes.is_unique() {
        let length = body.bytes.len();
        body.bytes = Bytes::new();
        body.reservation.release(length);
    }
    let request = InferRequest { model: name, version, inputs, headers: headers.clone() };
    let inference = answer(&rest.server, request, wishes.timeout).await?;
    // Until here the body and its tensors count against the memory of all bodies.
    drop(body);
    Ok(Answered { headers, form, model, wishes, inference })
}

/// The tensors in a body. What is allocated for them is reserved with the body; what reading takes, only meanwhile.
fn read_inputs(
    headers: &HeaderMap,
    body: &mut ReadBody,
    model: &ModelMetadata,
    max_bytes: usize,
) -> Result<(Vec<Tensor>, Wishes), Error> {
    let reading = binary::json_length(headers)?.unwrap_or(body.bytes.len()).min(body.bytes.len());
    let reading = weight::of_json(&body.bytes[..reading]);
    body.reservation.reserve(reading)?;
    let wire = read_wire(headers, &body.bytes, model, &mut body.reservation)?;
    let understood = understand(wire, model, max_bytes, &mut body.reservation);
    body.reservation.release(reading);
    understood
}

async fn write(
    inference: Inference,
    wishes: Wishes,
    model: Arc<ModelMetadata>,
    reply: fn(crate::JsonResponse) -> Response,
) -> Result<Response, Error> {
    let size = inference.outputs.iter().map(|output| output.data.len()).sum();
    let written = move || write_response(&render(&inference, &wishes, &model)?);
    large_off_thread(size, written).await.map(reply)
}

/// An output is sent as a picture itself, when that is what the caller accepts.
fn form(headers: &HeaderMap, model: &ModelMetadata, wishes: &mut Wishes) -> Result<Form, Error> {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>();
    let accepts = accepts.join(",");
    let accepts = |wanted: &[&str]| {
        accepts.split(',').filter_map(|range| range.split(';').next()).any(|range| wanted.contains(&range.trim()))
    };
    if !accepts(&["image/png"]) {
        return Ok(Form::Tensors);
    }
    let is_picture = |output: &&TensorMetadata| output.parameters.task == Some(Task::Image) && wishes.has(output);
    match model.outputs.iter().find(is_picture) {
        Some(output) => wishes.only_picture(output).map(|()| Form::Picture),
        None if accepts(&["application/json", "application/*", "*/*"]) => Ok(Form::Tensors),
        None => {
            let words = format!("no output of model {:?} that was asked for is a picture", model.name);
            Err(Error::new(StatusCode::NOT_ACCEPTABLE, words))
        }
    }
}

fn one_picture(inference: &Inference, wishes: &Wishes, model: &ModelMetadata) -> Result<Bytes, Error> {
    let response = render(inference, wishes, model)?;
    let mut pictures = response.outputs.iter().flat_map(|output| output.tensor.strings());
    match (pictures.next(), pictures.count()) {
        (Some(picture), 0) => Ok(picture),
        (first, more) => {
            let count = more + usize::from(first.is_some());
            Err(Error::unfit(format!("the answer is {count} pictures: ask for one, or for JSON")))
        }
    }
}
