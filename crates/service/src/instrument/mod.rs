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

/// Wraps all routes: a request id in and out, one log line a request, metrics, the checks of `guard`, a 500 instead of a broken
/// connection when a handler panics, an error that is seen also by a client that is still sending, and to a client of gRPC an
/// answer of gRPC.
pub fn instrument(app: Router, metrics: HttpMetrics, guard: RequestGuard) -> Router {
    instrument_with(app, metrics, guard, |_| {})
}

/// [`instrument`], and `finish` has the last word on the headers of every answer that is none of gRPC.
pub fn instrument_with(app: Router, metrics: HttpMetrics, guard: RequestGuard, finish: fn(&mut HeaderMap)) -> Router {
    app.layer(InstrumentLayer { metrics, guard, finish })
}

/// One layer for all of it: axum copies and boxes a route once for each layer shared it, for every request.
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

/// A route, wrapped. axum copies it for each request.
#[derive(Clone)]
struct Instrumented<S>(Arc<RouteShared<S>>);

/// What all requests to a route share.
struct RouteShared<S> {
    /// Copied when it is called.
    route: S,
    metrics: HttpMetrics,
    guard: RequestGuard,
    /// Found when the route is first info.
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
        // The copy that is called is info.
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
            let answering = async {
                let Ok(response) = route.clone().oneshot(request).await;
                response
            };
            let answering = with_request_id(info.id.clone(), AssertUnwindSafe(answering).catch_unwind());
            let answered = answering.instrument(span.clone()).await;
            answered.unwrap_or_else(|panic| span.in_scope(|| panic_response(&*panic)))
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
    if let Entry::Vacant(place) = response.headers_mut().entry(REQUEST_ID_HEADER) {
        place.insert(info.id);
    }
    if let Some(drain_handle) = drain_handle {
        drain_handle.drain(response.status()).await;
    }
    response
}

fn panic_response(panic: &(dyn Any + Send)) -> Response {
    let words = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    error!(panic = words.unwrap_or_default(), "a handler panicked");
    problem(StatusCode::INTERNAL_SERVER_ERROR, "an error of ours; it is in the log under this request's id")
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
    async fn an_id_that_is_long_or_not_visible_ascii_is_replaced() {
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
    async fn a_request_that_the_guard_refuses_does_not_reach_its_route() {
        let app = app(&mut Registry::default());
        let refused = request("/panics", header::ORIGIN, "https://evil.example");
        let response = app.clone().oneshot(refused).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert!(response.headers().contains_key(REQUEST_ID_HEADER));
        let mut call = request("/panics", header::ORIGIN, "https://evil.example");
        call.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let response = app.oneshot(call).await.unwrap();
        assert_eq!((response.status(), &response.headers()["grpc-status"]), (StatusCode::OK, &HeaderValue::from(7)));
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
