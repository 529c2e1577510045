use std::io::Read;
use std::sync::LazyLock;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use contract::ModelDescription;
use flate2::read::GzDecoder;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use service::conditional::etag_matches;
use sha2::{Digest, Sha256};
use tracing::error;

use crate::error::Error;
use crate::openapi;
use crate::state::AppState;

macro_rules! file {
    ($name:literal, $media_type:literal) => {
        File { name: $name, media_type: $media_type, gzip: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".gz")) }
    };
}

/// The documentation page, and the files of Swagger UI. `build.rs` compresses them.
const FILES: &[File] = &[
    file!("docs.html", "text/html; charset=utf-8"),
    file!("docs.css", "text/css; charset=utf-8"),
    file!("docs.js", "text/javascript; charset=utf-8"),
    file!("swagger-ui.css", "text/css; charset=utf-8"),
    file!("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    file!("LICENSE", "text/plain; charset=utf-8"),
];

/// Entity tag of all files. They change together, because they are part of the binary.
static ETAG: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for file in FILES {
        hash.update(file.gzip);
    }
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(&hash.finalize()[..9]))
});

struct File {
    name: &'static str,
    media_type: &'static str,
    /// Compressed, because nearly every browser accepts gzip.
    gzip: &'static [u8],
}

/// Model and version whose examples the documentation shows. Without a model: all models.
#[derive(Debug, Default, Deserialize)]
pub struct Selection {
    model: Option<String>,
    version: Option<String>,
}

/// Returns the documentation page.
pub async fn page(headers: HeaderMap) -> Result<Response, Error> {
    serve(&headers, "docs.html")
}

/// Returns a file of the documentation page.
pub async fn file(name: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Result<Response, Error> {
    let Path(name) = name.map_err(|_| Error::RouteNotFound)?;
    serve(&headers, &name)
}

/// Returns the `OpenAPI` document, with the models that are served now.
pub async fn openapi(
    State(app): State<AppState>,
    selection: Result<Query<Selection>, QueryRejection>,
) -> Result<Json<Value>, Error> {
    let selection = selection.map(|Query(selection)| selection).unwrap_or_default();
    let snapshot = app.catalog.snapshot();
    let models = selection.filter(&snapshot.models);
    match &selection.model {
        Some(name) if models.is_empty() => Err(app.catalog.find(Some(name)).err().unwrap_or(Error::RouteNotFound)),
        name => Ok(Json(openapi::describe(&models, name.is_some()))),
    }
}

/// Redirects from the path at which MLServer serves its documentation.
pub async fn redirect() -> Redirect {
    Redirect::temporary("/docs")
}

/// Redirects to the documentation of one model, or of one version of it.
pub async fn redirect_to_model(
    State(app): State<AppState>,
    selection: Result<Path<Selection>, PathRejection>,
) -> Response {
    let snapshot = app.catalog.snapshot();
    let exists = |selection: &Selection| !selection.filter(&snapshot.models).is_empty();
    match selection {
        Ok(Path(selection)) if exists(&selection) => {
            let Selection { model, version } = selection;
            let version = version.map(|version| format!("&version={version}")).unwrap_or_default();
            Redirect::temporary(&format!("/docs?model={}{version}", model.unwrap_or_default())).into_response()
        }
        _ => open_inference::Error::new(StatusCode::NOT_FOUND, "there is no such model or version").into_response(),
    }
}

impl Selection {
    fn filter<'a>(&self, models: &'a [ModelDescription]) -> Vec<&'a ModelDescription> {
        let matches = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|wanted| wanted == name);
        models
            .iter()
            .filter(|model| matches(&self.model, &model.name) && matches(&self.version, &model.version))
            .collect()
    }
}

fn serve(headers: &HeaderMap, name: &str) -> Result<Response, Error> {
    let file = FILES.iter().find(|file| file.name == name).ok_or(Error::RouteNotFound)?;
    let etag = ETAG.as_str();
    let validators = [(header::CACHE_CONTROL, "no-cache"), (header::ETAG, etag), (header::VARY, "accept-encoding")];
    if etag_matches(headers, etag) {
        return Ok((StatusCode::NOT_MODIFIED, validators).into_response());
    }
    let media_type = [(header::CONTENT_TYPE, file.media_type)];
    if accepts_gzip(headers) {
        return Ok((validators, media_type, [(header::CONTENT_ENCODING, "gzip")], file.gzip).into_response());
    }
    Ok((validators, media_type, file.decompressed()?).into_response())
}

/// Whether `Accept-Encoding` accepts gzip (RFC 9110 §12.5.3).
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let is_refused = weight.trim().strip_prefix("q=").and_then(|weight| weight.parse().ok()) == Some(0.0_f32);
        name.trim().eq_ignore_ascii_case("gzip") && !is_refused
    })
}

impl File {
    fn decompressed(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        GzDecoder::new(self.gzip).read_to_end(&mut bytes).map_err(|error| {
            error!(%error, name = self.name, "embedded file cannot be decompressed");
            Error::Internal
        })?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_only_to_clients_that_accept_it() {
        let with = |value: &'static str| HeaderMap::from_iter([(header::ACCEPT_ENCODING, value.parse().unwrap())]);
        for value in ["gzip", "br, GZIP;q=0.5", "deflate,gzip"] {
            assert!(accepts_gzip(&with(value)), "{value}");
        }
        for value in ["", "br", "gzip;q=0", "gzip; q=0.0", "identity"] {
            assert!(!accepts_gzip(&with(value)), "{value}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
