//! HTTP metrics by route.

use std::sync::OnceLock;
use std::time::Duration;

use axum::extract::MatchedPath;
use http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Histogram buckets in seconds: from a hit in the in-process cache to the longest client timeouts.
const SECONDS_BUCKETS: [f64; 14] =
    [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Counts and latencies of all requests of a service.
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
            seconds: Family::new_with_constructor(seconds_histogram),
            in_flight: Gauge::default(),
        };
        registry.register("requests", "HTTP requests completed", metrics.requests.clone());
        registry.register(
            "request_seconds",
            "Time from the request header to the response header",
            metrics.seconds.clone(),
        );
        registry.register("in_flight", "HTTP requests in flight", metrics.in_flight.clone());
        metrics
    }

    /// Counts a request as in flight until the returned value is dropped, also if the client disconnects.
    pub(crate) fn track(&self) -> InFlight<'_> {
        self.in_flight.inc();
        InFlight(&self.in_flight)
    }

    /// Metrics of one route. Unmatched paths share one label, so that a scanner cannot create labels without limit.
    pub(crate) fn route_metrics(&self, path: Option<&MatchedPath>) -> RouteMetrics {
        let route = path.map_or("unmatched", MatchedPath::as_str).to_owned();
        let seconds = self.seconds.get_or_create_owned(&RouteLabel { route: route.clone() });
        RouteMetrics { route, requests: self.requests.clone(), seconds, common: OnceLock::new() }
    }
}

pub(crate) struct InFlight<'a>(&'a Gauge);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts and latencies of one route.
#[derive(Debug)]
pub(crate) struct RouteMetrics {
    route: String,
    requests: Family<RequestLabels, Counter>,
    seconds: Histogram,
    /// Counter of the route's first method with status 200, which nearly all requests use: it saves the lookup by
    /// labels.
    common: OnceLock<(Method, Counter)>,
}

impl RouteMetrics {
    pub fn record(&self, method: &Method, status: StatusCode, elapsed: Duration) {
        self.seconds.observe(elapsed.as_secs_f64());
        let counter = || {
            let labels =
                RequestLabels { route: self.route.clone(), method: method_label(method), status: status.as_u16() };
            self.requests.get_or_create_owned(&labels)
        };
        if status != StatusCode::OK {
            counter().inc();
            return;
        }
        match self.common.get_or_init(|| (method.clone(), counter())) {
            (first, common) if first == method => common.inc(),
            _ => counter().inc(),
        };
    }
}

/// Histogram with the buckets of request latencies, for a service's own metrics.
pub fn seconds_histogram() -> Histogram {
    Histogram::new(SECONDS_BUCKETS)
}

/// Label of a method. Clients may send any token as a method; unknown ones share one label.
fn method_label(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_methods_share_one_label() {
        assert_eq!(method_label(&Method::POST), "POST");
        assert_eq!(method_label(&Method::from_bytes(b"BREW").unwrap()), "other");
        assert_eq!(method_label(&Method::from_bytes(b"get").unwrap()), "other");
    }
}
