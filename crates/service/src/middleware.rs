use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use futures_util::FutureExt;
use http::header::Entry;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tower::{Layer, Service, ServiceExt};
use tracing::{Instrument, debug, error, info, info_span};

use crate::grpc;
use crate::http_metrics::RouteMetrics;
pub use crate::http_metrics::{HttpMetrics, seconds_histogram};
use crate::ids::fresh_id;
use crate::lent::lend;
use crate::problem::problem;

/// `Cache-Status` of RFC 9211, which is in the log line as well.
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// A request's name in the log. A client's own is kept, and it is in every answer.
const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Beginnings of the paths of health checks, by whichever protocol.
const HEALTH_CHECKS: [&str; 3] = ["/health/", "/v2/health/", "/grpc.health.v1.Health/"];

tokio::task_local! {
    static REQUEST_ID: HeaderValue;
}

/// The id of the request that is being answered, to be passed on to whom it is answered with.
pub fn request_id() -> Option<HeaderValue> {
    REQUEST_ID.try_with(Clone::clone).ok()
}

/// Wraps all routes: a request id in and out, one log line a request, metrics, a 500 instead of a broken connection
/// when a handler panics, an error that is seen also by a client that is still sending, and to a client of gRPC an
/// answer of gRPC.
pub fn wrap(app: Router, metrics: HttpMetrics) -> Router {
    wrap_with(app, metrics, |_| {})
}

/// [`wrap`], and `finish` has the last word on the headers of every answer that is none of gRPC.
pub fn wrap_with(app: Router, metrics: HttpMetrics, finish: fn(&mut HeaderMap)) -> Router {
    app.layer(Wrap { metrics, finish })
}

/// One layer for all of it: axum copies and boxes a route once for each layer around it, for every request.
#[derive(Clone)]
struct Wrap {
    metrics: HttpMetrics,
    finish: fn(&mut HeaderMap),
}

impl<S> Layer<S> for Wrap {
    type Service = Wrapped<S>;

    fn layer(&self, route: S) -> Wrapped<S> {
        let Self { metrics, finish } = self.clone();
        Wrapped(Arc::new(Around { route, metrics, of_route: OnceLock::new(), finish }))
    }
}

/// A route, wrapped. axum copies it for each request.
#[derive(Clone)]
struct Wrapped<S>(Arc<Around<S>>);

/// What all requests to a route share.
struct Around<S> {
    /// Copied when it is called.
    route: S,
    metrics: HttpMetrics,
    /// Found when the route is first asked.
    of_route: OnceLock<RouteMetrics>,
    finish: fn(&mut HeaderMap),
}

impl<S> Service<Request> for Wrapped<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The copy that is called is asked.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let around = Arc::clone(&self.0);
        Box::pin(async move { Ok(answer(request, &around).await) })
    }
}

async fn answer<S>(request: Request, around: &Around<S>) -> Response
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone,
{
    let Around { route, metrics, of_route, finish } = around;
    let of_route = of_route.get_or_init(|| metrics.of_route(request.extensions().get::<MatchedPath>()));
    let _in_flight = metrics.begin();
    let begun = Instant::now();
    let asked = Asked::of(&request);
    let span = info_span!("request", id = asked.id.to_str().ok());
    let (request, lent) = lend(request);
    let answering = async {
        let Ok(response) = route.clone().oneshot(request).await;
        response
    };
    let answering = REQUEST_ID.scope(asked.id.clone(), AssertUnwindSafe(answering).catch_unwind());
    let answered = answering.instrument(span.clone()).await;
    let mut response = answered.unwrap_or_else(|panic| span.in_scope(|| answer_panic(&*panic)));
    if asked.is_call {
        response = grpc::answer_in_kind(response);
    } else {
        finish(response.headers_mut());
    }
    let status = grpc::http_status(response.headers()).unwrap_or(response.status());
    let took = begun.elapsed();
    span.in_scope(|| log(&asked, &response, status, took));
    of_route.answered(&asked.method, status, took);
    if let Entry::Vacant(place) = response.headers_mut().entry(REQUEST_ID_HEADER) {
        place.insert(asked.id);
    }
    if let Some(lent) = lent {
        lent.read_the_rest(response.status()).await;
    }
    response
}

/// What is still to be known of a request when it has been answered.
struct Asked {
    method: Method,
    path: Option<PathAndQuery>,
    id: HeaderValue,
    /// Whether it is a call of gRPC.
    is_call: bool,
}

impl Asked {
    fn of(request: &Request) -> Self {
        let fresh = || {
            let mut text = [0; 36];
            HeaderValue::from_str(fresh_id().hyphenated().encode_lower(&mut text)).expect("digits and dashes")
        };
        Self {
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            id: request.headers().get(REQUEST_ID_HEADER).cloned().unwrap_or_else(fresh),
            is_call: grpc::is_grpc(request.headers()),
        }
    }
}

fn log(asked: &Asked, response: &Response, status: StatusCode, took: Duration) {
    let Asked { method, path, .. } = asked;
    let (path, status, ms) = (path.as_ref().map_or("/", PathAndQuery::path), status.as_u16(), took.as_secs_f64() * 1e3);
    // Health checks come every few seconds for ever; at `info` they would be most of the log.
    if HEALTH_CHECKS.iter().any(|checks| path.starts_with(checks)) {
        debug!(%method, path, status, ms, "answered");
    } else {
        let cache = response.headers().get(CACHE_STATUS).and_then(|value| value.to_str().ok());
        info!(%method, path, status, ms, cache, "answered");
    }
}

fn answer_panic(panic: &(dyn Any + Send)) -> Response {
    let words = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    error!(panic = words.unwrap_or_default(), "a handler panicked");
    problem(StatusCode::INTERNAL_SERVER_ERROR, "an error of ours; it is in the log under this request's id")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::post;
    use http::header;
    use prometheus_client::registry::Registry;
    use tower::ServiceExt;

    use super::*;

    async fn panics() {
        panic!("{} of a sort", "something")
    }

    fn app(registry: &mut Registry) -> Router {
        let routes = Router::new()
            .route("/panics", post(panics))
            .route("/fine/{name}", post(|| async { request_id().map(|id| id.to_str().unwrap().to_owned()).unwrap() }));
        wrap(routes, HttpMetrics::register(registry))
    }

    fn request(path: &str, name: header::HeaderName, value: &str) -> Request {
        Request::post(path).header(name, value).body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn every_answer_carries_an_id_which_the_handler_knows() {
        let app = app(&mut Registry::default());
        for (name, given) in [(REQUEST_ID_HEADER, Some("of-the-client")), (header::ACCEPT, None)] {
            let request = request("/fine/1", name, given.unwrap_or("*/*"));
            let answer = app.clone().oneshot(request).await.unwrap();
            let id = answer.headers()[REQUEST_ID_HEADER].clone();
            assert!(given.map_or(id.len() == 36, |given| id == given), "{id:?}");
            assert_eq!(axum::body::to_bytes(answer.into_body(), 100).await.unwrap(), id.as_bytes());
        }
    }

    #[tokio::test]
    async fn a_panic_is_an_answer_and_to_a_client_of_grpc_one_of_its_kind() {
        let app = app(&mut Registry::default());
        let answer = app.clone().oneshot(request("/panics", header::ACCEPT, "*/*")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let answer = app.oneshot(request("/panics", header::CONTENT_TYPE, "application/grpc")).await.unwrap();
        assert_eq!((answer.status(), &answer.headers()["grpc-status"]), (StatusCode::OK, &HeaderValue::from(13)));
    }

    #[tokio::test]
    async fn requests_are_counted_by_route_method_and_status() {
        let mut registry = Registry::default();
        let app = app(&mut registry);
        for path in ["/fine/1", "/fine/2", "/panics", "/nowhere", "/elsewhere"] {
            app.clone().oneshot(request(path, header::ACCEPT, "*/*")).await.unwrap();
        }
        let get = Request::get("/fine/3").body(Body::empty()).unwrap();
        app.oneshot(get).await.unwrap();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "requests_total{route=\"/fine/{name}\",method=\"POST\",status=\"200\"} 2\n",
            "requests_total{route=\"/fine/{name}\",method=\"GET\",status=\"405\"} 1\n",
            "requests_total{route=\"/panics\",method=\"POST\",status=\"500\"} 1\n",
            "requests_total{route=\"unmatched\",method=\"POST\",status=\"404\"} 2\n",
            "request_seconds_count{route=\"/fine/{name}\"} 3\n",
            "in_flight 0\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
