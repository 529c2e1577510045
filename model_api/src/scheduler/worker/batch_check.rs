//! Sampled consistency check of real batches: reruns their requests one by one and compares the results.
//!
//! Analysis and probe can miss rows that depend on each other for some values only. So some batches are checked in the
//! background priority class, while no request waits. A difference disables batching for the model.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use open_inference::{Datatype, RowDependence, Tensor};
use tokio::time::timeout;
use tracing::{Span, warn};

use crate::scheduler::batching::batch_probe::compare::{
    distance, magnitude, other_size_tolerance, same_size_tolerance,
};
use crate::scheduler::batching::policy::Revocation;
use crate::scheduler::metrics::PoolMetrics;
use crate::scheduler::queue::batch::CompletedBatch;
use crate::scheduler::queue::entry::{Entry, Priority};
use crate::scheduler::shared::Shared;

/// Maximum size of inputs and outputs that a check retains, bytes. A larger batch is skipped, and the next one is checked.
const MAX_CHECKED_BYTES: usize = 16 << 20;

/// How long a run of a check waits in the background class, at least and in batches. After that it is queued as an interactive
/// request: under constant load there would be no checks otherwise, and a single run delays other requests very little.
const MIN_IDLE_WAIT: Duration = Duration::from_secs(2);
const IDLE_WAIT_BATCHES: u32 = 20;

/// Results of real rows may differ by this multiple of the rounding that the probe measured.
const PROBED_ROUNDING_FACTOR: f32 = 4.0;

/// A batch whose requests are rerun.
pub struct BatchCheck {
    shared: Arc<Shared>,
    metrics: PoolMetrics,
    parts: Vec<CheckedPart>,
    /// The largest magnitude in each output of the batch.
    typical: Vec<f32>,
    /// Whether the settings declare the rows independent. A difference is then counted and logged, but batching stays on.
    is_set_independent: bool,
}

/// One request, or one row if the settings declare the rows independent.
struct CheckedPart {
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

impl BatchCheck {
    /// The check of this batch, if the batch is sampled.
    pub fn sample(completed: &CompletedBatch, shared: &Arc<Shared>, metrics: &PoolMetrics) -> Option<Self> {
        let entries = &completed.batch.entries;
        let is_set_independent = shared.policy.decision()?.batching.rows == RowDependence::IndependentBySettings;
        // One request may hold rows of several callers: web_api batches requests if the settings declare rows independent.
        let rows = completed.batch.rows();
        let has_neighbours = entries.len() > 1 || (is_set_independent && rows > 1);
        if !has_neighbours || !shared.policy.is_enabled() || !shared.sampler.should_check() {
            return None;
        }
        // From here on, dropping the check releases the sampler.
        let mut check = Self {
            shared: Arc::clone(shared),
            metrics: metrics.clone(),
            parts: Vec::new(),
            typical: completed.outputs.iter().map(magnitude).collect(),
            is_set_independent,
        };
        let bytes: usize = completed.outputs.iter().map(|output| output.data.len()).sum();
        let bytes = bytes + entries.iter().map(Entry::bytes).sum::<usize>();
        if bytes > MAX_CHECKED_BYTES || completed.outputs.iter().any(|output| output.rows() != Some(rows)) {
            return None;
        }
        let sizes: Vec<usize> =
            if is_set_independent { vec![1; rows] } else { entries.iter().map(Entry::weight).collect() };
        let inputs = entries
            .iter()
            .flat_map(|entry| if is_set_independent { split_rows(entry) } else { vec![entry.inputs.clone()] });
        check.parts = inputs.map(|inputs| CheckedPart { inputs, outputs: Vec::new() }).collect();
        for output in &completed.outputs {
            let of_parts = output.split(&sizes);
            check.parts.iter_mut().zip(of_parts).for_each(|(part, output)| part.outputs.push(output));
        }
        shared.sampler.clear_due();
        Some(check)
    }

    /// Runs each part alone and compares the results. Stops at the first difference.
    pub async fn run(self) {
        let count = self.parts.len();
        for part in &self.parts {
            // A failed run proves nothing.
            let Some(alone) = self.run_alone(part).await else { return };
            let Some((output, difference)) = self.difference(&part.outputs, &alone) else { continue };
            let Some(again) = self.run_alone(part).await else { return };
            let nondeterministic = self.difference(&alone, &again).is_some();
            self.metrics.batches_that_differed.inc();
            self.report(&output, difference, nondeterministic, count);
            break;
        }
        self.metrics.batches_checked.inc();
    }

    fn report(&self, output: &str, difference: f32, nondeterministic: bool, count: usize) {
        let by = if difference.is_finite() {
            format!(" by {:.2} % of its largest value", difference * 100.0)
        } else {
            String::new()
        };
        let reason = if nondeterministic {
            format!("equal inputs gave different results in output {output:?}")
        } else {
            format!("output {output:?} of a request in a batch of {count} differed{by} from that of the request alone")
        };
        if self.is_set_independent {
            let model = self.shared.queue.model();
            warn!(
                model,
                reason,
                "batch check failed, but batching stays enabled because the settings say independent_rows: true"
            );
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let invalid_before_ms = Some(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        self.shared.revoke(&self.metrics, Revocation { reason, nondeterministic, invalid_before_ms });
    }

    /// `None` if the run fails.
    async fn run_alone(&self, part: &CheckedPart) -> Option<Vec<Tensor>> {
        let queue = &self.shared.queue;
        for priority in [Priority::Background, Priority::Interactive] {
            let (entry, response) = Entry::new(part.inputs.clone(), priority);
            let mut entry = entry.unbatched();
            entry.span = Span::none();
            if queue.push(entry).is_err() {
                return None;
            }
            let max_wait = MIN_IDLE_WAIT.max(queue.estimator.batch_duration() * IDLE_WAIT_BATCHES);
            if let Ok(response) = timeout(max_wait, response).await {
                return response.ok()?.ok().map(|output| output.outputs);
            }
        }
        None
    }

    /// The first output whose results differ by more than rounding, and the difference.
    fn difference(&self, one: &[Tensor], other: &[Tensor]) -> Option<(String, f32)> {
        let rounding = self.shared.policy.decision().map_or(0.0, |decision| decision.rounding);
        one.iter().zip(other).zip(&self.typical).find_map(|((one, other), &typical)| {
            let difference = distance(one, other, typical);
            (difference > tolerance(one.datatype, rounding)).then(|| (one.name.clone(), difference))
        })
    }
}

impl Drop for BatchCheck {
    fn drop(&mut self) {
        self.shared.sampler.release();
    }
}

/// The largest distance at which results in a batch and alone count as equal, given the rounding that the probe measured. It
/// is a thousandth of the largest value for 32-bit floats.
fn tolerance(datatype: Datatype, rounding: f32) -> f32 {
    (100.0 * same_size_tolerance(datatype)).max(PROBED_ROUNDING_FACTOR * rounding).min(other_size_tolerance(datatype))
}

fn split_rows(entry: &Entry) -> Vec<Vec<Tensor>> {
    let mut columns: Vec<_> = entry.inputs.iter().map(|input| input.split_rows().into_iter()).collect();
    (0..entry.weight()).map(|_| columns.iter_mut().filter_map(Iterator::next).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tolerance_follows_the_rounding_that_the_probe_measured() {
        assert!((tolerance(Datatype::Fp32, 0.0) - 1e-3).abs() < 1e-6);
        assert!((tolerance(Datatype::Fp32, 5e-3) - 2e-2).abs() < 1e-6);
        assert!((tolerance(Datatype::Fp32, 1.0) - other_size_tolerance(Datatype::Fp32)).abs() < 1e-6);
    }
}
