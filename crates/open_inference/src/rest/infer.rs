//! Inference routes.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use service::body_limits::ReadBody;
use service::response_body::reserve_response;

use super::path::ModelPath;
use super::request::{BufferedRequest, parse_body, read_body};
use super::response;
use super::state::RestState;
use crate::blocking_pool;
use crate::codec::binary;
use crate::codec::json::{allocation, response_to_json};
use crate::error::Error;
use crate::execute::run_with_timeout;
use crate::request::{OutputOptions, decode_request};
use crate::response::encode_response;
use crate::server::InferenceServer;
use crate::types::{InferRequest, Inference, ModelMetadata, Task, Tensor, TensorMetadata};

/// `POST …/infer`
pub(super) async fn infer<S: InferenceServer>(
    State(state): State<RestState<S>>,
    path: ModelPath,
    request: Request,
) -> Result<Response, Error> {
    let InferOutcome { headers, format, model, options, inference } =
        run_inference(&state, path, request, negotiate_format).await?;
    let response_headers = inference.headers.clone();
    let mut response = if response::is_not_modified(&headers, &response_headers) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if format == ResponseFormat::Image {
        response::png_image(blocking_pool::run(usize::MAX, move || single_image(&inference, &options, &model)).await?)
    } else {
        encode(inference, options, model, response::tensors).await?
    };
    response.headers_mut().extend(response_headers);
    Ok(reserve_response(response, state.bodies.budget().shared_reservation())?)
}

/// `POST …/infer_stream`: a stream of server-sent events with one event, because a model returns one response.
pub(super) async fn infer_stream<S: InferenceServer>(
    State(state): State<RestState<S>>,
    path: ModelPath,
    request: Request,
) -> Result<Response, Error> {
    let in_json = |_: &HeaderMap, _: &ModelMetadata, options: &mut OutputOptions| {
        options.disable_binary();
        Ok(ResponseFormat::Tensors)
    };
    let InferOutcome { options, inference, model, .. } = run_inference(&state, path, request, in_json).await?;
    let headers = inference.headers.clone();
    let mut response =
        encode(inference, options, model, |response| response::server_sent_event(&response.json)).await?;
    response.headers_mut().extend(headers);
    Ok(reserve_response(response, state.bodies.budget().shared_reservation())?)
}

/// A completed inference, not yet encoded.
struct InferOutcome {
    headers: HeaderMap,
    format: ResponseFormat,
    model: Arc<ModelMetadata>,
    options: OutputOptions,
    inference: Inference,
}

/// Format of the response body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ResponseFormat {
    /// All requested outputs.
    Tensors,
    /// The PNG of one output.
    Image,
}

/// Reads, decodes and runs a request. `choose_format` may change the output options before the model runs.
async fn run_inference<S: InferenceServer>(
    state: &RestState<S>,
    path: ModelPath,
    request: Request,
    choose_format: impl FnOnce(&HeaderMap, &ModelMetadata, &mut OutputOptions) -> Result<ResponseFormat, Error>,
) -> Result<InferOutcome, Error> {
    let ModelPath { model: name, version } = path;
    let model = state.server.model(&name, version.as_deref())?;
    let BufferedRequest { headers, body } = read_body(state, request).await?;
    let max_bytes = state.bodies.max_bytes();
    let (headers, model, mut body, decoded) = blocking_pool::run(body.bytes.len(), move || {
        let mut body = body;
        let decoded = decode_inputs(&headers, &mut body, &model, max_bytes);
        (headers, model, body, decoded)
    })
    .await;
    let (inputs, mut options) = decoded?;
    let format = choose_format(&headers, &model, &mut options)?;
    // Where all tensors were copied out of the JSON, nothing refers to the body any more.
    if !body.bytes.is_empty() && body.bytes.is_unique() {
        let length = body.bytes.len();
        body.bytes = Bytes::new();
        body.reservation.release(length);
    }
    let request = InferRequest { model: name, version, inputs, headers: headers.clone() };
    let inference = run_with_timeout(&state.server, request, options.timeout).await?;
    // Until here, the body and its tensors count against the memory budget of all bodies.
    drop(body);
    Ok(InferOutcome { headers, format, model, options, inference })
}

/// Decodes the inputs of a body. Their memory is reserved with the body, that of the parser only while it parses.
fn decode_inputs(
    headers: &HeaderMap,
    body: &mut ReadBody,
    model: &ModelMetadata,
    max_bytes: usize,
) -> Result<(Vec<Tensor>, OutputOptions), Error> {
    let json_bytes = binary::json_length(headers)?.unwrap_or(body.bytes.len()).min(body.bytes.len());
    let parser_bytes = allocation::estimate(&body.bytes[..json_bytes]);
    body.reservation.reserve(parser_bytes)?;
    let wire = parse_body(headers, &body.bytes, model, &mut body.reservation)?;
    let decoded = decode_request(wire, model, max_bytes, &mut body.reservation);
    body.reservation.release(parser_bytes);
    decoded
}

async fn encode(
    inference: Inference,
    options: OutputOptions,
    model: Arc<ModelMetadata>,
    respond: fn(crate::JsonResponse) -> Response,
) -> Result<Response, Error> {
    let size = inference.outputs.iter().map(|output| output.data.len()).sum();
    let encode = move || response_to_json(&encode_response(&inference, &options, &model)?);
    blocking_pool::run(size, encode).await.map(respond)
}

/// Negotiates the format: an image where the client accepts PNG and an output is an image.
fn negotiate_format(
    headers: &HeaderMap,
    model: &ModelMetadata,
    options: &mut OutputOptions,
) -> Result<ResponseFormat, Error> {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>();
    let accepts = accepts.join(",");
    let accepts = |media_types: &[&str]| {
        accepts.split(',').filter_map(|range| range.split(';').next()).any(|range| media_types.contains(&range.trim()))
    };
    if !accepts(&["image/png"]) {
        return Ok(ResponseFormat::Tensors);
    }
    let is_image = |output: &&TensorMetadata| output.parameters.task == Some(Task::Image) && options.includes(output);
    match model.outputs.iter().find(is_image) {
        Some(output) => options.select_image(output).map(|()| ResponseFormat::Image),
        None if accepts(&["application/json", "application/*", "*/*"]) => Ok(ResponseFormat::Tensors),
        None => {
            let message = format!("no requested output of model {:?} is an image", model.name);
            Err(Error::new(StatusCode::NOT_ACCEPTABLE, message))
        }
    }
}

fn single_image(inference: &Inference, options: &OutputOptions, model: &ModelMetadata) -> Result<Bytes, Error> {
    let response = encode_response(inference, options, model)?;
    let mut images = response.outputs.iter().flat_map(|output| output.tensor.strings());
    match (images.next(), images.count()) {
        (Some(image), 0) => Ok(image),
        (first, more) => {
            let count = more + usize::from(first.is_some());
            Err(Error::unprocessable(format!("the response has {count} images: request a single one, or accept JSON")))
        }
    }
}
