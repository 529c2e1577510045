//! Instrumentation layer of all routes: request ID, access log, metrics, request guard and panic handling.

mod http_metrics;
pub mod request_id;
mod request_info;

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use futures_util::FutureExt;
use http::header::Entry;
use http::{HeaderMap, StatusCode};
use tower::{Layer, Service, ServiceExt};
use tracing::{Instrument, error, info_span};

use http_metrics::RouteMetrics;
pub use http_metrics::{HttpMetrics, seconds_histogram};
use request_id::with_request_id;
use request_info::{REQUEST_ID_HEADER, RequestInfo, log};

use crate::limits::body_drain::drainable;
use crate::response::grpc_status;
use crate::response::problem::problem;
use crate::security::request_guard::RequestGuard;

/// Wraps all routes in one layer.
///
/// It assigns request IDs, writes the access log, records metrics and rejects requests that `guard` does not accept. A
/// panic in a handler becomes a 500 response. After an error, the rest of the request body is drained, so that a client
/// that is still sending receives the response. gRPC requests get gRPC responses.
pub fn instrument(app: Router, metrics: HttpMetrics, guard: RequestGuard) -> Router {
    instrument_with(app, metrics, guard, |_| {})
}

/// Same as [`instrument`], but `finish` edits the headers of every response except those of gRPC last.
pub fn instrument_with(app: Router, metrics: HttpMetrics, guard: RequestGuard, finish: fn(&mut HeaderMap)) -> Router {
    app.layer(InstrumentLayer { metrics, guard, finish })
}

/// One layer for everything: axum clones and boxes a route once per layer for every request.
#[derive(Clone)]
struct InstrumentLayer {
    metrics: HttpMetrics,
    guard: RequestGuard,
    finish: fn(&mut HeaderMap),
}

impl<S> Layer<S> for InstrumentLayer {
    type Service = Instrumented<S>;

    fn layer(&self, route: S) -> Instrumented<S> {
        let Self { metrics, guard, finish } = self.clone();
        Instrumented(Arc::new(RouteShared { route, metrics, guard, route_metrics: OnceLock::new(), finish }))
    }
}

/// An instrumented route. axum clones it for each request.
#[derive(Clone)]
struct Instrumented<S>(Arc<RouteShared<S>>);

/// State shared by all requests to a route.
struct RouteShared<S> {
    /// Cloned for each request.
    route: S,
    metrics: HttpMetrics,
    guard: RequestGuard,
    /// Initialized by the first request.
    route_metrics: OnceLock<RouteMetrics>,
    finish: fn(&mut HeaderMap),
}

impl<S> Service<Request> for Instrumented<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Readiness is checked on the clone that is called.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { Ok(handle(request, &shared).await) })
    }
}

async fn handle<S>(request: Request, shared: &RouteShared<S>) -> Response
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone,
{
    let RouteShared { route, metrics, guard, route_metrics, finish } = shared;
    let route_metrics = route_metrics.get_or_init(|| metrics.route_metrics(request.extensions().get::<MatchedPath>()));
    let _in_flight = metrics.track();
    let start = Instant::now();
    let info = RequestInfo::new(&request);
    let span = info_span!("request", id = info.id.to_str().ok());
    let checked = guard.check(&request);
    let (request, drain_handle) = drainable(request);
    let mut response = match checked {
        Ok(()) => {
            let response = async {
                let Ok(response) = route.clone().oneshot(request).await;
                response
            };
            let response = with_request_id(info.id.clone(), AssertUnwindSafe(response).catch_unwind());
            let response = response.instrument(span.clone()).await;
            response.unwrap_or_else(|panic| span.in_scope(|| panic_response(&*panic)))
        }
        Err(rejection) => {
            drop(request);
            rejection.respond(info.path(), info.is_grpc)
        }
    };
    if info.is_grpc {
        response = grpc_status::to_grpc_response(response);
    } else {
        finish(response.headers_mut());
    }
    let status = grpc_status::http_status(response.headers()).unwrap_or(response.status());
    let elapsed = start.elapsed();
    span.in_scope(|| log(&info, &response, status, elapsed));
    route_metrics.record(&info.method, status, elapsed);
    if let Entry::Vacant(entry) = response.headers_mut().entry(REQUEST_ID_HEADER) {
        entry.insert(info.id);
    }
    if let Some(drain_handle) = drain_handle {
        drain_handle.drain(response.status()).await;
    }
    response
}

fn panic_response(panic: &(dyn Any + Send)) -> Response {
    let message = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    error!(panic = message.unwrap_or_default(), "handler panicked");
    problem(StatusCode::INTERNAL_SERVER_ERROR, "Internal error; see the server log for this request ID.")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::post;
    use http::{HeaderValue, header};
    use prometheus_client::registry::Registry;
    use tower::ServiceExt;

    use super::*;
    use crate::instrument::request_id::current_request_id;
    use crate::instrument::request_info::is_valid_request_id;

    async fn panics() {
        panic!("{} of a sort", "something")
    }

    fn app(registry: &mut Registry) -> Router {
        let routes = Router::new().route("/panics", post(panics)).route(
            "/fine/{name}",
            post(|| async { current_request_id().map(|id| id.to_str().unwrap().to_owned()).unwrap() }),
        );
        instrument(routes, HttpMetrics::register(registry), RequestGuard::default())
    }

    fn request(path: &str, name: header::HeaderName, value: &str) -> Request {
        Request::post(path).header(name, value).body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn response_carries_the_request_id_that_the_handler_sees() {
        let app = app(&mut Registry::default());
        for (name, given) in [(REQUEST_ID_HEADER, Some("of-the-client")), (header::ACCEPT, None)] {
            let request = request("/fine/1", name, given.unwrap_or("*/*"));
            let response = app.clone().oneshot(request).await.unwrap();
            let id = response.headers()[REQUEST_ID_HEADER].clone();
            assert!(given.map_or(id.len() == 36, |given| id == given), "{id:?}");
            assert_eq!(axum::body::to_bytes(response.into_body(), 100).await.unwrap(), id.as_bytes());
        }
    }

    #[tokio::test]
    async fn request_id_that_is_long_or_not_visible_ascii_is_replaced() {
        let app = app(&mut Registry::default());
        for (id, is_kept) in
            [("x".repeat(128), true), ("x".repeat(129), false), ("a b".to_owned(), false), (String::new(), false)]
        {
            let response = app.clone().oneshot(request("/fine/1", REQUEST_ID_HEADER, &id)).await.unwrap();
            let sent = &response.headers()[REQUEST_ID_HEADER];
            assert!(if is_kept { *sent == id } else { sent.len() == 36 }, "{id:?}: {sent:?}");
        }
        assert!(!is_valid_request_id(&HeaderValue::from_bytes(b"\xff").unwrap()));
    }

    #[tokio::test]
    async fn request_rejected_by_the_guard_does_not_reach_its_route() {
        let app = app(&mut Registry::default());
        let rejected = request("/panics", header::ORIGIN, "https://evil.example");
        let response = app.clone().oneshot(rejected).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert!(response.headers().contains_key(REQUEST_ID_HEADER));
        let mut call = request("/panics", header::ORIGIN, "https://evil.example");
        call.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let response = app.oneshot(call).await.unwrap();
        assert_eq!((response.status(), &response.headers()["grpc-status"]), (StatusCode::OK, &HeaderValue::from(7)));
    }

    #[tokio::test]
    async fn panic_becomes_a_500_or_a_grpc_status() {
        let app = app(&mut Registry::default());
        let response = app.clone().oneshot(request("/panics", header::ACCEPT, "*/*")).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let response = app.oneshot(request("/panics", header::CONTENT_TYPE, "application/grpc")).await.unwrap();
        assert_eq!((response.status(), &response.headers()["grpc-status"]), (StatusCode::OK, &HeaderValue::from(13)));
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
