//! Inference statistics, after Triton's statistics extension.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::types::Timing;

/// Request counts and durations per model version since the start of the service, after Triton's statistics extension.
/// Triton's load generator takes the difference of two snapshots. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    // Held for a few additions, never across an await.
    models: Arc<Mutex<CountsByModel>>,
}

/// By name and version.
type CountsByModel = BTreeMap<String, BTreeMap<String, Counts>>;

/// Number of distinct batch sizes. Beyond it, batch sizes are rounded up to a power of two.
const MAX_BATCH_SIZES: usize = 256;

/// Result of a cache lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheLookup {
    /// The result was cached; the model did not run.
    Hit,
    /// The result was not cached.
    Miss,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    last_inference: u64,
    inferences: u64,
    executions: u64,
    inference: InferenceStatistics,
    batches: BTreeMap<u64, BatchStatistics>,
}

/// Statistics of one model version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ModelStatistics {
    /// Name of the model.
    pub name: String,
    /// Version of the model.
    pub version: String,
    /// Time of the last successful request, in milliseconds since 1970; 0 before the first.
    pub last_inference: u64,
    /// Number of inferred rows: a batch of eight counts eight.
    pub inference_count: u64,
    /// Number of requests that ran the model, without cache hits.
    pub execution_count: u64,
    /// Counts and durations by outcome and stage.
    pub inference_stats: InferenceStatistics,
    /// Counts and durations by batch size.
    pub batch_stats: Vec<BatchStatistics>,
}

/// Counts and durations by outcome and stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InferenceStatistics {
    /// Successful requests, including cache hits; total duration.
    pub success: StatisticDuration,
    /// Failed requests.
    pub fail: StatisticDuration,
    /// Waiting for a session. Cache hits count with no duration.
    pub queue: StatisticDuration,
    /// Decoding of images or text into tensors.
    pub compute_input: StatisticDuration,
    /// Execution in the session.
    pub compute_infer: StatisticDuration,
    /// Encoding of outputs. It is part of the execution here, so it counts with no duration.
    pub compute_output: StatisticDuration,
    /// Cache hits.
    pub cache_hit: StatisticDuration,
    /// Cache misses.
    pub cache_miss: StatisticDuration,
}

/// Statistics of requests with the same number of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BatchStatistics {
    /// Number of rows.
    pub batch_size: u64,
    /// Decoding of images or text into tensors.
    pub compute_input: StatisticDuration,
    /// Execution in the session.
    pub compute_infer: StatisticDuration,
    /// Encoding of outputs.
    pub compute_output: StatisticDuration,
}

/// A count and a total duration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StatisticDuration {
    /// Number of events.
    pub count: u64,
    /// Total duration in nanoseconds.
    pub ns: u64,
}

impl StatisticDuration {
    fn record(&mut self, duration: Duration) {
        self.count += 1;
        self.ns = self.ns.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
}

impl Statistics {
    /// Records a successful request of `rows` rows. `timing` is that of the inference; a cache hit does not count it
    /// again.
    pub fn record_success(
        &self,
        model: &str,
        version: &str,
        rows: u64,
        timing: &Timing,
        total: Duration,
        cache: Option<CacheLookup>,
    ) {
        let mut models = self.lock();
        let counts = counts_mut(&mut models, model, version);
        counts.last_inference = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
        counts.inference.success.record(total);
        match cache {
            // As in Triton, a cache hit is not an inference but counts as queued: by that count, the load generator
            // identifies the version that responded.
            Some(CacheLookup::Hit) => {
                counts.inference.queue.record(Duration::ZERO);
                return counts.inference.cache_hit.record(total);
            }
            Some(CacheLookup::Miss) => counts.inference.cache_miss.record(Duration::ZERO),
            None => {}
        }
        counts.inferences = counts.inferences.saturating_add(rows);
        counts.executions += 1;
        let [decode, queue, infer] = [timing.decode, timing.queue, timing.infer].map(from_millis);
        // Clients choose the batch sizes, and each takes memory.
        let size = if counts.batches.len() < MAX_BATCH_SIZES { rows } else { rows.next_power_of_two() };
        let batch = counts.batches.entry(size).or_insert(BatchStatistics { batch_size: size, ..Default::default() });
        let all = &mut counts.inference;
        all.queue.record(queue);
        for (stage, duration) in [
            (&mut all.compute_input, decode),
            (&mut all.compute_infer, infer),
            (&mut all.compute_output, Duration::ZERO),
            (&mut batch.compute_input, decode),
            (&mut batch.compute_infer, infer),
            (&mut batch.compute_output, Duration::ZERO),
        ] {
            stage.record(duration);
        }
    }

    /// Records a failed request to an existing model.
    pub fn record_failure(&self, model: &str, version: &str, total: Duration) {
        counts_mut(&mut self.lock(), model, version).inference.fail.record(total);
    }

    /// Statistics of all models, of one model, or of one version. Models without requests are omitted.
    pub fn report(&self, model: Option<&str>, version: Option<&str>) -> Vec<ModelStatistics> {
        let models = self.lock();
        let named = models.iter().filter(|(name, _)| model.is_none_or(|model| *name == model));
        let all =
            named.flat_map(|(name, versions)| versions.iter().map(move |(version, counts)| (name, version, counts)));
        let selected = all.filter(|(_, counted, _)| version.is_none_or(|version| *counted == version));
        selected.map(|(name, version, counts)| counts.report(name, version)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, CountsByModel> {
        // A panic cannot leave the counts in a state that matters.
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Allocates the names only for the first request of a version.
fn counts_mut<'a>(models: &'a mut CountsByModel, model: &str, version: &str) -> &'a mut Counts {
    if !models.get(model).is_some_and(|versions| versions.contains_key(version)) {
        models.entry(model.to_owned()).or_default().insert(version.to_owned(), Counts::default());
    }
    models.get_mut(model).and_then(|versions| versions.get_mut(version)).expect("inserted above")
}

impl Counts {
    fn report(&self, name: &str, version: &str) -> ModelStatistics {
        ModelStatistics {
            name: name.to_owned(),
            version: version.to_owned(),
            last_inference: self.last_inference,
            inference_count: self.inferences,
            execution_count: self.executions,
            inference_stats: self.inference,
            batch_stats: self.batches.values().copied().collect(),
        }
    }
}

fn from_millis(millis: f64) -> Duration {
    Duration::try_from_secs_f64(millis / 1e3).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inferences_cache_hits_and_failures_are_counted_separately() {
        let statistics = Statistics::default();
        let timing = Timing { decode: 1.0, queue: 2.0, infer: 3.0 };
        let second = Duration::from_secs(1);
        statistics.record_success("m", "1", 8, &timing, second, Some(CacheLookup::Miss));
        statistics.clone().record_success("m", "1", 8, &timing, second, Some(CacheLookup::Hit));
        statistics.record_failure("m", "1", second);
        statistics.record_success("m", "2", 1, &timing, second, None);

        let [one] = &statistics.report(Some("m"), Some("1"))[..] else { panic!("expected one version") };
        assert_eq!((one.inference_count, one.execution_count), (8, 1));
        let stats = one.inference_stats;
        let count = |count, ns| StatisticDuration { count, ns };
        assert_eq!(stats.success, count(2, 2_000_000_000));
        assert_eq!(stats.fail, count(1, 1_000_000_000));
        assert_eq!((stats.cache_hit, stats.cache_miss), (count(1, 1_000_000_000), count(1, 0)));
        assert_eq!((stats.compute_input, stats.queue), (count(1, 1_000_000), count(2, 2_000_000)));
        // Invariants that load tools rely on.
        assert_eq!(stats.success.count, stats.queue.count);
        assert_eq!(stats.success.count, stats.cache_hit.count + stats.cache_miss.count);
        assert_eq!(stats.compute_infer.count, stats.queue.count - stats.cache_hit.count);
        assert_eq!((stats.compute_infer, stats.compute_output), (count(1, 3_000_000), count(1, 0)));
        assert_eq!(one.batch_stats[0].batch_size, 8);
        assert_eq!(statistics.report(Some("m"), None).len(), 2);
        assert_eq!(statistics.report(Some("other"), None), []);
    }
}
