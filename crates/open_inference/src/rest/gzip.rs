//! gzip decoder for request bodies (RFC 1952), including files of several members, as `pigz`, `bgzip` and `cat a.gz
//! b.gz` write them.
//!
//! The decoder of `tower-http` ends the body with the first member.

use std::io;

use async_compression::tokio::bufread::GzipDecoder;
use axum::body::Body;
use axum::extract::Request;
use futures_util::TryStreamExt;
use http::header;
use tokio_util::io::{ReaderStream, StreamReader};

/// Size of a decompressed chunk in bytes.
const CHUNK_BYTES: usize = 16 << 10;

/// Decompresses the body where the lower-case `Content-Encoding` is gzip.
pub(super) fn decompress(mut request: Request) -> Request {
    let encoding = request.headers().get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    if !encoding.map(str::trim).is_some_and(|name| ["gzip", "x-gzip"].contains(&name)) {
        return request;
    }
    request.headers_mut().remove(header::CONTENT_ENCODING);
    request.headers_mut().remove(header::CONTENT_LENGTH);
    request.map(|body| {
        let mut decoder = GzipDecoder::new(StreamReader::new(body.into_data_stream().map_err(io::Error::other)));
        decoder.multiple_members(true);
        Body::from_stream(ReaderStream::with_capacity(decoder, CHUNK_BYTES))
    })
}
