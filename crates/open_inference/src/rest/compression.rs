//! Compression and decompression of HTTP bodies.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::{Route, future::RouteFuture};
use futures_util::future::Either;
use http::{Extensions, HeaderMap, HeaderValue, StatusCode, Version, header};
use service::body_limits::BodyReader;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::decompression::RequestDecompressionLayer;

use super::gzip;
use super::yielding_body::yield_between_frames;
use crate::error::Error;

/// Smaller responses are faster uncompressed.
const MIN_COMPRESSED_BYTES: u16 = 4096;

/// Memory of a decoder: a window of 32 KiB, tables and buffers.
const DECODER_BYTES: usize = 128 << 10;

/// Memory of an encoder: a window, hash chains and buffers.
const ENCODER_BYTES: usize = 384 << 10;

/// Conditional layer that decompresses request bodies and compresses inference responses. Other responses stay
/// uncompressed: `tritonclient.http.aio` accepts compression on every route, but decompresses only inference responses.
/// A request without either encoding header bypasses all compression layers.
#[derive(Clone)]
pub(super) struct ConditionalCompressionLayer(pub BodyReader);

impl Layer<Route> for ConditionalCompressionLayer {
    type Service = ConditionalCompression;

    fn layer(&self, route: Route) -> ConditionalCompression {
        ConditionalCompression(route, self.0.clone())
    }
}

#[derive(Clone)]
pub(super) struct ConditionalCompression(Route, BodyReader);

type BoxedFuture = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

impl Service<Request> for ConditionalCompression {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<RouteFuture<Infallible>, BoxedFuture>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let headers = request.headers();
        if headers.contains_key(header::CONTENT_ENCODING) || headers.contains_key(header::ACCEPT_ENCODING) {
            Either::Right(Box::pin(call_with_compression(self.0.clone(), self.1.clone(), request)))
        } else {
            Either::Left(self.0.call(request))
        }
    }
}

/// Content codings are case-insensitive (RFC 9110 §8.4.1), but the decoders accept only lower case.
fn lowercase_content_encoding(mut request: Request) -> Request {
    if let Some(encoding) = request.headers_mut().get_mut(header::CONTENT_ENCODING)
        && encoding.as_bytes().iter().any(u8::is_ascii_uppercase)
        && let Ok(lowercase) = HeaderValue::from_bytes(&encoding.as_bytes().to_ascii_lowercase())
    {
        *encoding = lowercase;
    }
    request
}

async fn call_with_compression(route: Route, bodies: BodyReader, request: Request) -> Result<Response, Infallible> {
    let is_inference = request.uri().path().ends_with("/infer");
    let (parts, body) = request.into_parts();
    let mut memory = bodies.reservation_for(&parts);
    let decoder = if parts.headers.contains_key(header::CONTENT_ENCODING) { DECODER_BYTES } else { 0 };
    if let Err(error) = memory.reserve(decoder) {
        return Ok(Error::from(error).into_response());
    }
    let request = Request::from_parts(parts, body);
    // Where memory for the encoder is not available, the response stays uncompressed.
    let mut encoder = bodies.budget().shared_reservation();
    let is_inference = is_inference
        && request.headers().contains_key(header::ACCEPT_ENCODING)
        && encoder.reserve(ENCODER_BYTES).is_ok();
    let should_compress =
        (move |status: StatusCode, _: Version, _: &HeaderMap, _: &Extensions| is_inference && status.is_success())
            .and(SizeAbove::new(MIN_COMPRESSED_BYTES))
            .and(NotForContentType::IMAGES)
            .and(NotForContentType::const_new("text/event-stream"));
    let layers = ServiceBuilder::new()
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(should_compress))
        .layer(RequestDecompressionLayer::new().pass_through_unaccepted(true));
    match layers.service(route).oneshot(gzip::decompress(lowercase_content_encoding(request))).await {
        Ok(response) => Ok(yield_between_frames(response.map(Body::new), encoder)),
        Err(error) => Ok(Error::malformed(error.to_string()).into_response()),
    }
}
