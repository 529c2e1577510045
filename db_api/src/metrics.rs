use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Metrics of the result cache. The caller registers them under the prefix of its service.
#[derive(Clone, Debug, Default)]
pub struct CacheMetrics {
    errors: Family<ErrorKind, Counter>,
    open: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorKind {
    kind: &'static str,
}

impl CacheMetrics {
    /// Registers `redis_errors_total` and `redis_open`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("redis_errors", "Redis commands that failed, by kind of error", metrics.errors.clone());
        registry.register("redis_open", "1 while the circuit breaker of Redis is open, else 0", metrics.open.clone());
        metrics
    }

    pub(crate) fn record_error(&self, kind: &'static str) {
        self.errors.get_or_create(&ErrorKind { kind }).inc();
    }

    pub(crate) fn set_breaker_open(&self, is_open: bool) {
        self.open.set(i64::from(is_open));
    }
}
