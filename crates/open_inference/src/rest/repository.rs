use axum::extract::{Request, State};
use axum::response::Response;
use http::HeaderMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::asked::Asked;
use super::request::ReadRequest;
use super::{Rest, reply, request};
use crate::answer::large_off_thread;
use crate::check::cut;
use crate::json::object::Object;
use crate::server::check_load;
use crate::{Error, InferenceServer, ModelState, Parameters, parameters, utf8_json};

#[derive(Default, Deserialize)]
#[serde(default)]
struct IndexRequest {
    /// `null`, as MLServer's types write it, is the same as none.
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
    State(rest): State<Rest<S>>,
    request: Request,
) -> Result<Response, Error> {
    let (asked, _): (IndexRequest, _) = read(&rest, request).await?;
    let mut models = rest.server.repository_index().await?;
    models.retain(|model| asked.ready != Some(true) || model.state == ModelState::Ready);
    Ok(reply::json(&models))
}

/// `POST /v2/repository/models/{model}/load`
pub(super) async fn load<S: InferenceServer>(
    State(rest): State<Rest<S>>,
    asked: Asked,
    request: Request,
) -> Result<Response, Error> {
    let (LoadRequest { parameters }, headers) = read(&rest, request).await?;
    check_load(parameters.keys())?;
    rest.server.load(&asked.model, &headers).await?;
    Ok(Response::default())
}

/// `POST /v2/repository/models/{model}/unload`
pub(super) async fn unload<S: InferenceServer>(
    State(rest): State<Rest<S>>,
    asked: Asked,
    request: Request,
) -> Result<Response, Error> {
    let (LoadRequest { .. }, headers) = read(&rest, request).await?;
    rest.server.unload(&asked.model, &headers).await?;
    Ok(Response::default())
}

/// A body that may be missing, and the request's headers.
async fn read<S, T>(rest: &Rest<S>, request: Request) -> Result<(T, HeaderMap), Error>
where
    S: InferenceServer,
    T: DeserializeOwned + Default + Send + 'static,
{
    let ReadRequest { headers, body } = request::read_body(rest, request).await?;
    let size = body.bytes.len();
    let read = move || {
        if body.bytes.is_empty() {
            return Ok(T::default());
        }
        let text = utf8_json(&body.bytes).map_err(|error| Error::malformed(error.to_string()))?;
        serde_json::from_slice(text)
            .map(|Object(asked)| asked)
            .map_err(|error| Error::malformed(format!("the body is no JSON of such a request: {}", cut(&error))))
    };
    Ok((large_off_thread(size, read).await?, headers))
}
