//! Responses of `model_api`: body limits, JSON, and errors.

use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};
use reqwest::Response;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use service::memory_budget::Reservation;
use service::problem::Problem;
use tracing::warn;

use crate::error::Error;

/// Upper bound of a response body, because it is held in memory. Four times the default limit of a request body, because an image of
/// a few kilobytes can become large tensors.
const MAX_RESPONSE_BYTES: usize = 256 << 20;

/// Errors of the protocol's routes, and those of all other routes.
#[derive(Deserialize)]
#[serde(untagged)]
enum ErrorBody {
    Protocol { error: String },
    Problem(Problem),
}

/// The error that a response without success stands for. Errors of `model_api` are meant for the client; those of anything else that
/// responds at its address are not.
pub async fn error_from(response: Response) -> Error {
    let status = response.status();
    let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let is_overload = response.headers().contains_key(open_inference::OVERLOADED_HEADER);
    let body = read_body(response).await.and_then(|body| decode_json::<ErrorBody>(&body));
    match body {
        Ok(ErrorBody::Protocol { error: message } | ErrorBody::Problem(Problem { detail: message, .. })) => {
            let error = open_inference::Error::new(status, message);
            let retry_after_s = retry_after.unwrap_or(error.retry_after_s);
            Error::Model(open_inference::Error { retry_after_s, is_overload, ..error })
        }
        Err(_) if status == StatusCode::SERVICE_UNAVAILABLE => Error::Busy,
        Err(error) => error,
    }
}

/// Reads a body, after its declared length has been reserved in `memory`.
pub async fn read_reserved_body(response: Response, memory: &mut Reservation) -> Result<Bytes, Error> {
    let length = response.content_length().map_or(0, |length| length.min(MAX_RESPONSE_BYTES as u64) as usize);
    memory.reserve(length)?;
    read_body(response).await
}

/// Reads a body of at most [`MAX_RESPONSE_BYTES`].
pub async fn read_body(mut response: Response) -> Result<Bytes, Error> {
    let too_long = || {
        warn!(max_bytes = MAX_RESPONSE_BYTES, "response of model_api exceeds the size limit");
        Error::Internal
    };
    let broken =
        |error: reqwest::Error| if error.is_timeout() { Error::DeadlineExceeded } else { Error::ModelUnreachable };
    if response.content_length().is_some_and(|length| length > MAX_RESPONSE_BYTES as u64) {
        return Err(too_long());
    }
    let Some(first) = response.chunk().await.map_err(broken)? else { return Ok(Bytes::new()) };
    let mut bytes = BytesMut::from(first);
    bytes.reserve(response.content_length().map_or(0, |length| length as usize).saturating_sub(bytes.len()));
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if bytes.len() + chunk.len() > MAX_RESPONSE_BYTES {
            return Err(too_long());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// Decodes a JSON body.
pub fn decode_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| invalid_response(&error))
}

/// Logs why a response cannot be decoded.
pub fn invalid_response(error: &dyn std::error::Error) -> Error {
    warn!(%error, "response of model_api cannot be decoded");
    Error::Internal
}
