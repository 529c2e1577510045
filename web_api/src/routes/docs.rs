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

use crate::app::App;
use crate::error::Error;
use crate::openapi;

macro_rules! file {
    ($name:literal, $media_type:literal) => {
        File { name: $name, media_type: $media_type, gzip: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".gz")) }
    };
}

/// The page, and the viewer that it consists of; build.rs puts them together.
const FILES: &[File] = &[
    file!("docs.html", "text/html; charset=utf-8"),
    file!("docs.css", "text/css; charset=utf-8"),
    file!("docs.js", "text/javascript; charset=utf-8"),
    file!("swagger-ui.css", "text/css; charset=utf-8"),
    file!("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    file!("LICENSE", "text/plain; charset=utf-8"),
];

/// One tag for all files: they change together, with the binary.
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
    /// Compressed, as nearly every browser takes it.
    gzip: &'static [u8],
}

/// Whose examples are shown: all models' where none is named.
#[derive(Debug, Default, Deserialize)]
pub struct Chosen {
    model: Option<String>,
    version: Option<String>,
}

/// The viewer's page.
pub async fn page(headers: HeaderMap) -> Result<Response, Error> {
    serve(&headers, "docs.html")
}

/// What the page needs.
pub async fn file(name: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Result<Response, Error> {
    let Path(name) = name.map_err(|_| Error::NoRoute)?;
    serve(&headers, &name)
}

/// The description itself, with the models that are served now.
pub async fn openapi(
    State(app): State<App>,
    chosen: Result<Query<Chosen>, QueryRejection>,
) -> Result<Json<Value>, Error> {
    let chosen = chosen.map(|Query(chosen)| chosen).unwrap_or_default();
    let known = app.catalog.known();
    let models = chosen.among(&known.models);
    match &chosen.model {
        Some(name) if models.is_empty() => Err(app.catalog.find(Some(name)).err().unwrap_or(Error::NoRoute)),
        chosen => Ok(Json(openapi::describe(&models, chosen.is_some()))),
    }
}

/// Where clients of MLServer look for it.
pub async fn v2() -> Redirect {
    Redirect::temporary("/docs")
}

/// The same for one model, or for one version of it: its own examples.
pub async fn model(State(app): State<App>, chosen: Result<Path<Chosen>, PathRejection>) -> Response {
    let known = app.catalog.known();
    let known = |chosen: &Chosen| !chosen.among(&known.models).is_empty();
    match chosen {
        Ok(Path(chosen)) if known(&chosen) => {
            let Chosen { model, version } = chosen;
            let version = version.map(|version| format!("&version={version}")).unwrap_or_default();
            Redirect::temporary(&format!("/docs?model={}{version}", model.unwrap_or_default())).into_response()
        }
        _ => open_inference::Error::new(StatusCode::NOT_FOUND, "there is no such model or version").into_response(),
    }
}

impl Chosen {
    fn among<'a>(&self, models: &'a [ModelDescription]) -> Vec<&'a ModelDescription> {
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        models.iter().filter(|model| is(&self.model, &model.name) && is(&self.version, &model.version)).collect()
    }
}

fn serve(headers: &HeaderMap, name: &str) -> Result<Response, Error> {
    let file = FILES.iter().find(|file| file.name == name).ok_or(Error::NoRoute)?;
    let etag = ETAG.as_str();
    let kept = [(header::CACHE_CONTROL, "no-cache"), (header::ETAG, etag), (header::VARY, "accept-encoding")];
    if etag_matches(headers, etag) {
        return Ok((StatusCode::NOT_MODIFIED, kept).into_response());
    }
    let kind = [(header::CONTENT_TYPE, file.media_type)];
    if takes_gzip(headers) {
        return Ok((kept, kind, [(header::CONTENT_ENCODING, "gzip")], file.gzip).into_response());
    }
    Ok((kept, kind, file.inflated()?).into_response())
}

/// Whether `Accept-Encoding` names gzip (RFC 9110 §12.5.3).
fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let refused = weight.trim().strip_prefix("q=").and_then(|weight| weight.parse().ok()) == Some(0.0_f32);
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

impl File {
    fn inflated(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        GzDecoder::new(self.gzip).read_to_end(&mut bytes).map_err(|error| {
            error!(%error, name = self.name, "a file of ours cannot be inflated");
            Error::Internal
        })?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_only_to_whom_takes_it() {
        let with = |value: &'static str| HeaderMap::from_iter([(header::ACCEPT_ENCODING, value.parse().unwrap())]);
        for value in ["gzip", "br, GZIP;q=0.5", "deflate,gzip"] {
            assert!(takes_gzip(&with(value)), "{value}");
        }
        for value in ["", "br", "gzip;q=0", "gzip; q=0.0", "identity"] {
            assert!(!takes_gzip(&with(value)), "{value}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
