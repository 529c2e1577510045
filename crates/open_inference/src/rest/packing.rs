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

use super::{gzip, reply};

/// Smaller answers are sent faster as they are.
const WORTH_COMPRESSING: u16 = 4096;

/// What decoding a body takes: a window of 32 KiB, tables, and pieces on their way.
const DECODER_BYTES: usize = 128 << 10;

/// What encoding a response takes: a window, hash chains, and pieces on their way.
const ENCODER_BYTES: usize = 384 << 10;

/// Bodies may come compressed, and inference responses are compressed for a client that accepts it. Everything else goes out
/// as it is: `tritonclient.http.aio` accepts compression on every route, but unpacks inference responses alone. A request that
/// names neither encoding bypasses all of the layers that do it.
#[derive(Clone)]
pub(super) struct PackingLayer(pub BodyReader);

impl Layer<Route> for PackingLayer {
    type Service = Packing;

    fn layer(&self, route: Route) -> Packing {
        Packing(route, self.0.clone())
    }
}

#[derive(Clone)]
pub(super) struct Packing(Route, BodyReader);

type Boxed = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

impl Service<Request> for Packing {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<RouteFuture<Infallible>, Boxed>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let headers = request.headers();
        if headers.contains_key(header::CONTENT_ENCODING) || headers.contains_key(header::ACCEPT_ENCODING) {
            Either::Right(Box::pin(packed(self.0.clone(), self.1.clone(), request)))
        } else {
            Either::Left(self.0.call(request))
        }
    }
}

/// Encodings have no case (RFC 9110 §8.4.1); the decoders know small letters alone.
fn in_small_letters(mut request: Request) -> Request {
    if let Some(encoding) = request.headers_mut().get_mut(header::CONTENT_ENCODING)
        && encoding.as_bytes().iter().any(u8::is_ascii_uppercase)
        && let Ok(small) = HeaderValue::from_bytes(&encoding.as_bytes().to_ascii_lowercase())
    {
        *encoding = small;
    }
    request
}

async fn packed(route: Route, bodies: BodyReader, request: Request) -> Result<Response, Infallible> {
    let is_inference = request.uri().path().ends_with("/infer");
    let (parts, body) = request.into_parts();
    let mut memory = bodies.reservation_for(&parts);
    let decoder = if parts.headers.contains_key(header::CONTENT_ENCODING) { DECODER_BYTES } else { 0 };
    if let Err(error) = memory.reserve(decoder) {
        return Ok(crate::Error::from(error).into_response());
    }
    let request = Request::from_parts(parts, body);
    // Where there is no memory for it, the response is sent as it is.
    let mut encoder = bodies.budget().shared_reservation();
    let is_inference = is_inference
        && request.headers().contains_key(header::ACCEPT_ENCODING)
        && encoder.reserve(ENCODER_BYTES).is_ok();
    let worth_it =
        (move |status: StatusCode, _: Version, _: &HeaderMap, _: &Extensions| is_inference && status.is_success())
            .and(SizeAbove::new(WORTH_COMPRESSING))
            .and(NotForContentType::IMAGES)
            .and(NotForContentType::const_new("text/event-stream"));
    let layers = ServiceBuilder::new()
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(worth_it))
        .layer(RequestDecompressionLayer::new().pass_through_unaccepted(true));
    match layers.service(route).oneshot(gzip::unpacked(in_small_letters(request))).await {
        Ok(response) => Ok(reply::in_turns(response.map(Body::new), encoder)),
        Err(error) => Ok(crate::Error::malformed(error.to_string()).into_response()),
    }
}
