use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Counters of the memory; register them under the service's prefix.
#[derive(Clone, Debug, Default)]
pub struct MemoryMetrics {
    errors: Family<ErrorKind, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorKind {
    kind: &'static str,
}

impl MemoryMetrics {
    /// Registers `redis_errors_total`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("redis_errors", "Redis commands without a usable answer, by kind", metrics.errors.clone());
        metrics
    }

    pub(crate) fn error(&self, kind: &'static str) {
        self.errors.get_or_create(&ErrorKind { kind }).inc();
    }
}
