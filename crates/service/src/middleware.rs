use std::any::Any;
use std::sync::LazyLock;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer};
use tracing::{Instrument, error, info, info_span};

use crate::body::read_the_rest;
use crate::grpc;
use crate::problem::problem;

/// `Cache-Status` of RFC 9211, which is in the log line as well.
static CACHE_STATUS: LazyLock<HeaderName> = LazyLock::new(|| HeaderName::from_static("cache-status"));

/// Beginnings of the paths of health checks, by whichever protocol.
const HEALTH_CHECKS: [&str; 3] = ["/health/", "/v2/health/", "/grpc.health.v1.Health/"];

tokio::task_local! {
    static REQUEST_ID: Option<HeaderValue>;
}

/// The id of the request that is being answered, to be passed on to whom it is answered with.
pub fn request_id() -> Option<HeaderValue> {
    REQUEST_ID.try_with(Clone::clone).ok().flatten()
}

/// Seconds; from a near hit to the longest patience anybody has.
const SECONDS: [f64; 14] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Counts and times of all requests of a service.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabel, Histogram>,
    in_flight: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabel {
    route: String,
}

impl HttpMetrics {
    /// Registers `requests_total`, `request_seconds` and `in_flight`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            in_flight: Gauge::default(),
        };
        registry.register("requests", "Requests answered", metrics.requests.clone());
        registry.register("request_seconds", "Time from a request's head to its answer's", metrics.seconds.clone());
        registry.register("in_flight", "Requests being worked on", metrics.in_flight.clone());
        metrics
    }
}

/// A histogram over the seconds that requests take, for a service's own metrics.
pub fn seconds_histogram() -> Histogram {
    Histogram::new(SECONDS)
}

/// Wraps all routes: a request id in and out, one log line a request, metrics, a 500 instead of a broken connection
/// when a handler panics, an error that is seen also by a client that is still sending, and to a client of gRPC an
/// answer of gRPC.
pub fn wrap(app: Router, metrics: HttpMetrics) -> Router {
    app.layer(
        ServiceBuilder::new()
            .layer(from_fn(read_the_rest))
            .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
            .layer(from_fn_with_state(metrics, measure))
            .layer(from_fn(log))
            .layer(PropagateRequestIdLayer::x_request_id())
            .layer(from_fn(grpc::answer_in_kind))
            .layer(CatchPanicLayer::custom(answer_panic)),
    )
}

async fn log(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let id = request.extensions().get::<RequestId>().map(|id| id.header_value().clone());
    let span = info_span!("request", id = id.as_ref().and_then(|id| id.to_str().ok()));
    let response = REQUEST_ID.scope(id, next.run(request)).instrument(span.clone()).await;
    let _entered = span.enter();
    let status = grpc::http_status(response.headers()).unwrap_or(response.status()).as_u16();
    let cache = response.headers().get(&*CACHE_STATUS).and_then(|value| value.to_str().ok());
    let ms = begun.elapsed().as_secs_f64() * 1e3;
    // Health checks come every few seconds for ever; at `info` they would be most of the log.
    if HEALTH_CHECKS.iter().any(|checks| path.starts_with(checks)) {
        tracing::debug!(%method, path, status, ms, "answered");
    } else {
        info!(%method, path, status, ms, cache, "answered");
    }
    response
}

async fn measure(
    axum::extract::State(metrics): axum::extract::State<HttpMetrics>,
    request: Request,
    next: Next,
) -> Response {
    /// Counts down also when the client goes away and the future is dropped.
    struct InFlight(Gauge);
    impl Drop for InFlight {
        fn drop(&mut self) {
            self.0.dec();
        }
    }

    metrics.in_flight.inc();
    let _in_flight = InFlight(metrics.in_flight.clone());
    let begun = Instant::now();
    let method = method_label(request.method());
    let matched = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    // Unmatched paths share one label: a scanner must not fill the memory with labels.
    let route = matched.unwrap_or_else(|| "unmatched".to_owned());
    let response = next.run(request).await;
    let status = grpc::http_status(response.headers()).unwrap_or(response.status()).as_u16();
    metrics.requests.get_or_create(&RequestLabels { route: route.clone(), method, status }).inc();
    metrics.seconds.get_or_create(&RouteLabel { route }).observe(begun.elapsed().as_secs_f64());
    response
}

/// A method is any word the client likes: those that no route has share one label.
fn method_label(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that CatchPanicLayer calls")]
fn answer_panic(panic: Box<dyn Any + Send + 'static>) -> Response {
    let words = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    error!(panic = words, "a handler panicked");
    problem(StatusCode::INTERNAL_SERVER_ERROR, "an error of ours; it is in the log under this request's id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_that_clients_invent_share_one_label() {
        assert_eq!(method_label(&Method::POST), "POST");
        assert_eq!(method_label(&Method::from_bytes(b"BREW").unwrap()), "other");
        assert_eq!(method_label(&Method::from_bytes(b"get").unwrap()), "other");
    }
}
