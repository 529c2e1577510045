use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use service::conditional::etag_matches;
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::error::Error;

macro_rules! asset {
    ($name:literal, $media_type:literal) => {
        Asset { name: $name, media_type: $media_type, bytes: include_bytes!(concat!("../../static/", $name)) }
    };
}

const FILES: &[Asset] = &[
    asset!("answer.js", "text/javascript; charset=utf-8"),
    asset!("api.js", "text/javascript; charset=utf-8"),
    asset!("app.css", "text/css; charset=utf-8"),
    asset!("app.js", "text/javascript; charset=utf-8"),
    asset!("draw.js", "text/javascript; charset=utf-8"),
    asset!("files.js", "text/javascript; charset=utf-8"),
    asset!("folders.js", "text/javascript; charset=utf-8"),
    asset!("health.js", "text/javascript; charset=utf-8"),
    asset!("icon.svg", "image/svg+xml"),
    asset!("job.js", "text/javascript; charset=utf-8"),
    asset!("jobs.js", "text/javascript; charset=utf-8"),
    asset!("pictures.js", "text/javascript; charset=utf-8"),
    asset!("results.js", "text/javascript; charset=utf-8"),
];

/// The page's styles and scripts, which are part of the binary.
#[derive(Debug)]
pub struct Assets {
    /// Changes when any of them changes; in every address the page names.
    pub version: String,
}

#[derive(Debug)]
struct Asset {
    name: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
}

/// `?v=` of an asset's address.
#[derive(Debug, Deserialize)]
pub struct Version {
    v: Option<String>,
}

impl Default for Assets {
    fn default() -> Self {
        let mut hash = Sha256::new();
        for file in FILES {
            hash.update(file.bytes);
        }
        Self { version: URL_SAFE_NO_PAD.encode(&hash.finalize()[..9]) }
    }
}

/// One of the files. Under its version's address it may be kept for ever; under another it is asked for again, which
/// costs no more than the question as long as it is the same.
pub async fn file(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
    version: Result<Query<Version>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let Path(name) = name.map_err(|_| Error::NoRoute)?;
    let file = FILES.iter().find(|file| file.name == name).ok_or(Error::NoRoute)?;
    let is_current = version.is_ok_and(|Query(version)| version.v.as_deref() == Some(&app.assets.version));
    let keep = if is_current { "public, max-age=31536000, immutable" } else { "no-cache" };
    let etag = format!("\"{}\"", app.assets.version);
    let unchanged = etag_matches(&headers, &etag);
    let kept = [(header::CACHE_CONTROL, keep.to_owned()), (header::ETAG, etag)];
    if unchanged {
        return Ok((StatusCode::NOT_MODIFIED, kept).into_response());
    }
    Ok((kept, [(header::CONTENT_TYPE, file.media_type)], file.bytes).into_response())
}
