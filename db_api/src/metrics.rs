use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Metrics of the memory; register them under the service's prefix.
#[derive(Clone, Debug, Default)]
pub struct MemoryMetrics {
    errors: Family<ErrorKind, Counter>,
    open: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorKind {
    kind: &'static str,
}

impl MemoryMetrics {
    /// Registers `redis_errors_total` and `redis_open`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("redis_errors", "Redis commands without a usable answer, by kind", metrics.errors.clone());
        registry.register("redis_open", "1 while Redis is not asked since it does not answer", metrics.open.clone());
        metrics
    }

    pub(crate) fn error(&self, kind: &'static str) {
        self.errors.get_or_create(&ErrorKind { kind }).inc();
    }

    pub(crate) fn breaker(&self, open: bool) {
        self.open.set(i64::from(open));
    }
}
