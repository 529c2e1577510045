//! Routes of the model repository extension: index, load, unload.

use axum::extract::{Request, State};
use axum::response::Response;
use http::HeaderMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::path::ModelPath;
use super::request::BufferedRequest;
use super::state::RestState;
use super::{request, response};
use crate::blocking_pool;
use crate::codec::json::object::Object;
use crate::codec::json::utf8_json;
use crate::error::Error;
use crate::server::{InferenceServer, validate_load_parameters};
use crate::truncate::truncated;
use crate::types::{ModelState, Parameters, parameters};

#[derive(Default, Deserialize)]
#[serde(default)]
struct IndexRequest {
    /// MLServer's types send `null` for an absent value.
    ready: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LoadRequest {
    #[serde(deserialize_with = "parameters::deserialize")]
    parameters: Parameters,
}

/// `POST /v2/repository/index`
pub(super) async fn index<S: InferenceServer>(
    State(state): State<RestState<S>>,
    request: Request,
) -> Result<Response, Error> {
    let (index_request, _): (IndexRequest, _) = read_optional_json(&state, request).await?;
    let mut models = state.server.repository_index().await?;
    models.retain(|model| index_request.ready != Some(true) || model.state == ModelState::Ready);
    Ok(response::json(&models))
}

/// `POST /v2/repository/models/{model}/load`
pub(super) async fn load<S: InferenceServer>(
    State(state): State<RestState<S>>,
    path: ModelPath,
    request: Request,
) -> Result<Response, Error> {
    let (LoadRequest { parameters }, headers) = read_optional_json(&state, request).await?;
    validate_load_parameters(parameters.keys())?;
    state.server.load(&path.model, &headers).await?;
    Ok(Response::default())
}

/// `POST /v2/repository/models/{model}/unload`
pub(super) async fn unload<S: InferenceServer>(
    State(state): State<RestState<S>>,
    path: ModelPath,
    request: Request,
) -> Result<Response, Error> {
    let (LoadRequest { .. }, headers) = read_optional_json(&state, request).await?;
    state.server.unload(&path.model, &headers).await?;
    Ok(Response::default())
}

/// Reads an optional JSON body. Also returns the headers of the request.
async fn read_optional_json<S, T>(state: &RestState<S>, request: Request) -> Result<(T, HeaderMap), Error>
where
    S: InferenceServer,
    T: DeserializeOwned + Default + Send + 'static,
{
    let BufferedRequest { headers, body } = request::read_body(state, request).await?;
    let size = body.bytes.len();
    let parse = move || {
        if body.bytes.is_empty() {
            return Ok(T::default());
        }
        let text = utf8_json(&body.bytes).map_err(|error| Error::malformed(error.to_string()))?;
        serde_json::from_slice(text)
            .map(|Object(parsed)| parsed)
            .map_err(|error| Error::malformed(format!("the body is not a valid request: {}", truncated(&error))))
    };
    Ok((blocking_pool::run(size, parse).await?, headers))
}
