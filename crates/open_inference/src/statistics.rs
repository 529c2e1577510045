use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::Timing;

/// Counts and times of every model since the service began, in the shape of Triton's statistics extension: its load tool
/// reads them before and after, and divides. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    // Held for a few additions, never across an await.
    models: Arc<Mutex<Models>>,
}

/// By name and version.
type Models = BTreeMap<String, BTreeMap<String, Counts>>;

/// Batch sizes that are counted one by one; beyond, those up to a power of two are one.
const MAX_SIZES: usize = 256;

/// What a cache said before the model was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheLookup {
    /// It had the answer: nothing was run.
    Hit,
    /// It had not.
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

/// Of one model version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ModelStatistics {
    /// The model's name.
    pub name: String,
    /// The version.
    pub version: String,
    /// When the last one came, in milliseconds since 1970; 0 before the first.
    pub last_inference: u64,
    /// Rows that were answered: a batch of eight counts eight.
    pub inference_count: u64,
    /// Requests that were run and not remembered.
    pub execution_count: u64,
    /// By outcome and by stage.
    pub inference_stats: InferenceStatistics,
    /// By rows in a request.
    pub batch_stats: Vec<BatchStatistics>,
}

/// Counts and times by outcome and by stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InferenceStatistics {
    /// Requests that got an answer, remembered ones included; the whole of their time.
    pub success: StatisticDuration,
    /// Requests that got an error.
    pub fail: StatisticDuration,
    /// Waiting for a session. Cache hits count, with no time.
    pub queue: StatisticDuration,
    /// Reading pictures or text into tensors.
    pub compute_input: StatisticDuration,
    /// In the session.
    pub compute_infer: StatisticDuration,
    /// Writing; it is part of the session's time here, so it counts and takes none.
    pub compute_output: StatisticDuration,
    /// Answered from memory.
    pub cache_hit: StatisticDuration,
    /// Looked up in vain.
    pub cache_miss: StatisticDuration,
}

/// Requests of the same number of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BatchStatistics {
    /// The rows.
    pub batch_size: u64,
    /// Reading pictures or text into tensors.
    pub compute_input: StatisticDuration,
    /// In the session.
    pub compute_infer: StatisticDuration,
    /// Writing.
    pub compute_output: StatisticDuration,
}

/// How often, and how long together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StatisticDuration {
    /// How often.
    pub count: u64,
    /// Nanoseconds.
    pub ns: u64,
}

impl StatisticDuration {
    fn add(&mut self, took: Duration) {
        self.count += 1;
        self.ns = self.ns.saturating_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
}

impl Statistics {
    /// A request of so many rows got its answer. `timing` is of the run; a remembered answer's is not counted again.
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
        let counts = counts_of(&mut models, model, version);
        counts.last_inference = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
        counts.inference.success.add(total);
        match cache {
            // Triton counts as inferences what was computed, and a hit as a request that was in the queue: from that count its
            // load tool tells which version has answered.
            Some(CacheLookup::Hit) => {
                counts.inference.queue.add(Duration::ZERO);
                return counts.inference.cache_hit.add(total);
            }
            Some(CacheLookup::Miss) => counts.inference.cache_miss.add(Duration::ZERO),
            None => {}
        }
        counts.inferences = counts.inferences.saturating_add(rows);
        counts.executions += 1;
        let [decode, queue, infer] = [timing.decode, timing.queue, timing.infer].map(from_millis);
        // The sizes are the clients' choice, and each takes memory.
        let size = if counts.batches.len() < MAX_SIZES { rows } else { rows.next_power_of_two() };
        let batch = counts.batches.entry(size).or_insert(BatchStatistics { batch_size: size, ..Default::default() });
        let all = &mut counts.inference;
        all.queue.add(queue);
        for (stage, took) in [
            (&mut all.compute_input, decode),
            (&mut all.compute_infer, infer),
            (&mut all.compute_output, Duration::ZERO),
            (&mut batch.compute_input, decode),
            (&mut batch.compute_infer, infer),
            (&mut batch.compute_output, Duration::ZERO),
        ] {
            stage.add(took);
        }
    }

    /// A request to a model that there is got an error.
    pub fn record_failure(&self, model: &str, version: &str, total: Duration) {
        counts_of(&mut self.lock(), model, version).inference.fail.add(total);
    }

    /// What was counted, of one model, of one version, or of all. A model that was never asked is not among them.
    pub fn report(&self, model: Option<&str>, version: Option<&str>) -> Vec<ModelStatistics> {
        let models = self.lock();
        let of_name = models.iter().filter(|(name, _)| model.is_none_or(|model| *name == model));
        let all =
            of_name.flat_map(|(name, versions)| versions.iter().map(move |(version, counts)| (name, version, counts)));
        let wanted = all.filter(|(_, of, _)| version.is_none_or(|version| *of == version));
        wanted.map(|(name, version, counts)| counts.report(name, version)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Models> {
        // Numbers cannot be left half changed in a way that matters.
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names are copied for the first of each alone.
fn counts_of<'a>(models: &'a mut Models, model: &str, version: &str) -> &'a mut Counts {
    if !models.get(model).is_some_and(|versions| versions.contains_key(version)) {
        models.entry(model.to_owned()).or_default().insert(version.to_owned(), Counts::default());
    }
    models.get_mut(model).and_then(|versions| versions.get_mut(version)).expect("it is there now")
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
    fn runs_hits_and_failures_are_told_apart() {
        let statistics = Statistics::default();
        let timing = Timing { decode: 1.0, queue: 2.0, infer: 3.0 };
        let second = Duration::from_secs(1);
        statistics.record_success("m", "1", 8, &timing, second, Some(CacheLookup::Miss));
        statistics.clone().record_success("m", "1", 8, &timing, second, Some(CacheLookup::Hit));
        statistics.record_failure("m", "1", second);
        statistics.record_success("m", "2", 1, &timing, second, None);

        let [one] = &statistics.report(Some("m"), Some("1"))[..] else { panic!("one version was asked for") };
        assert_eq!((one.inference_count, one.execution_count), (8, 1));
        let stats = one.inference_stats;
        let count = |count, ns| StatisticDuration { count, ns };
        assert_eq!(stats.success, count(2, 2_000_000_000));
        assert_eq!(stats.fail, count(1, 1_000_000_000));
        assert_eq!((stats.cache_hit, stats.cache_miss), (count(1, 1_000_000_000), count(1, 0)));
        assert_eq!((stats.compute_input, stats.queue), (count(1, 1_000_000), count(2, 2_000_000)));
        // What load tools take for granted of the numbers.
        assert_eq!(stats.success.count, stats.queue.count);
        assert_eq!(stats.success.count, stats.cache_hit.count + stats.cache_miss.count);
        assert_eq!(stats.compute_infer.count, stats.queue.count - stats.cache_hit.count);
        assert_eq!((stats.compute_infer, stats.compute_output), (count(1, 3_000_000), count(1, 0)));
        assert_eq!(one.batch_stats[0].batch_size, 8);
        assert_eq!(statistics.report(Some("m"), None).len(), 2);
        assert_eq!(statistics.report(Some("other"), None), []);
    }
}
