use std::sync::LazyLock;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use service::conditional::etag_matches;
use sha2::{Digest, Sha256};

use crate::error::Error;

macro_rules! asset {
    ($name:literal, $media_type:literal) => {
        Asset { name: $name, media_type: $media_type, bytes: include_bytes!(concat!("../../static/", $name)) }
    };
}

/// Scripts and styles of the page, which are part of the binary.
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
    asset!("images.js", "text/javascript; charset=utf-8"),
    asset!("job.js", "text/javascript; charset=utf-8"),
    asset!("jobs.js", "text/javascript; charset=utf-8"),
    asset!("results.js", "text/javascript; charset=utf-8"),
];

/// Hash of all files. It is part of every URL in the page, so that a changed file gets a new URL.
pub static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for file in FILES {
        hash.update(file.bytes);
    }
    URL_SAFE_NO_PAD.encode(&hash.finalize()[..9])
});

#[derive(Debug)]
struct Asset {
    name: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
}

/// Query parameter `?v=` of an asset.
#[derive(Debug, Deserialize)]
pub struct VersionParameter {
    v: Option<String>,
}

/// Returns one file. With the current version in its URL, it may be cached forever; otherwise the client must revalidate it.
pub async fn file(
    name: Result<Path<String>, PathRejection>,
    version: Result<Query<VersionParameter>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let Path(name) = name.map_err(|_| Error::RouteNotFound)?;
    let file = FILES.iter().find(|file| file.name == name).ok_or(Error::RouteNotFound)?;
    let is_current = version.is_ok_and(|Query(version)| version.v.as_deref() == Some(VERSION.as_str()));
    let cache_control = if is_current { "public, max-age=31536000, immutable" } else { "no-cache" };
    let etag = format!("\"{}\"", *VERSION);
    let is_unchanged = etag_matches(&headers, &etag);
    let validators = [(header::CACHE_CONTROL, cache_control.to_owned()), (header::ETAG, etag)];
    if is_unchanged {
        return Ok((StatusCode::NOT_MODIFIED, validators).into_response());
    }
    Ok((validators, [(header::CONTENT_TYPE, file.media_type)], file.bytes).into_response())
}
