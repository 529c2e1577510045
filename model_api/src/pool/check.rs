//! Sampled check of real batches: their requests are run again one by one, and the results are compared.
//!
//! Analysis and probe can miss rows that depend on each other only for some values. So some of the first batches and one in
//! a thousand are checked, in the background class: a run of a check begins when no request waits. A difference turns
//! mixing off for the model.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use open_inference::{Datatype, RowDependence, Tensor};
use tokio::time::timeout;
use tracing::{Span, warn};

use super::batch::Answered;
use super::entry::{Entry, Urgency};
use super::mixing::Revocation;
use super::rows::{distance, magnitude, other_size, same_size};
use super::{Meters, Shared};

/// One in so many batches of several requests is checked.
const ONE_IN: u64 = 1000;

/// Of the first so many, those whose number is a power of two.
const FIRST: u64 = 100;

/// Bytes of inputs and outputs that are kept for a check. A larger batch is left out, and the next one taken.
const MAX_BYTES: usize = 16 << 20;

/// A run of a check waits so long, or as long as so many batches take, for a moment in which no request waits. Then it goes
/// as a request does: under constant load there would be no check otherwise, and one run delays nobody noticeably.
const PATIENCE: Duration = Duration::from_secs(2);
const PATIENCE_BATCHES: u32 = 20;

/// Results of real rows may be apart by so many times the rounding that the probe has seen.
const MORE_THAN_PROBED: f32 = 4.0;

/// Which batches of a model are checked.
#[derive(Debug, Default)]
pub struct Sampler {
    batches: AtomicU64,
    is_due: AtomicBool,
    /// One check at a time.
    is_busy: AtomicBool,
}

/// A batch whose requests are to be run again.
pub struct Check {
    shared: Arc<Shared>,
    meters: Meters,
    parts: Vec<Part>,
    /// The largest magnitude in each output of the batch.
    usual: Vec<f32>,
    /// Whether the settings say that rows are independent: a difference is then only counted and logged.
    is_claimed: bool,
}

/// A request, or a row where the settings say that rows are independent.
struct Part {
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

impl Sampler {
    /// Counts a batch of several requests. Whether it is to be checked.
    fn picks(&self) -> bool {
        let number = self.batches.fetch_add(1, Ordering::Relaxed) + 1;
        if is_sampled(number) {
            self.is_due.store(true, Ordering::Relaxed);
        }
        self.is_due.load(Ordering::Relaxed) && !self.is_busy.swap(true, Ordering::Relaxed)
    }
}

fn is_sampled(number: u64) -> bool {
    number.is_multiple_of(ONE_IN) || (number <= FIRST && number.is_power_of_two())
}

impl Check {
    /// A check of this batch, if it is one to be checked.
    pub fn of(answered: &Answered, shared: &Arc<Shared>, meters: &Meters) -> Option<Self> {
        let entries = &answered.batch.entries;
        let is_claimed = shared.mixing.decision()?.batching.rows == RowDependence::IndependentBySettings;
        // The rows of one request may be those of several callers: where rows are independent, web_api sends them together.
        let rows = answered.batch.rows();
        if (entries.len() < 2 && !(is_claimed && rows > 1)) || !shared.mixing.is_on() || !shared.sampler.picks() {
            return None;
        }
        let mut check = Self {
            shared: Arc::clone(shared),
            meters: meters.clone(),
            parts: Vec::new(),
            usual: answered.outputs.iter().map(magnitude).collect(),
            is_claimed,
        };
        let bytes: usize = answered.outputs.iter().map(|output| output.data.len()).sum();
        let bytes = bytes + entries.iter().map(Entry::bytes).sum::<usize>();
        if bytes > MAX_BYTES || answered.outputs.iter().any(|output| output.rows() != Some(rows)) {
            return None;
        }
        let sizes: Vec<usize> = if is_claimed { vec![1; rows] } else { entries.iter().map(Entry::weight).collect() };
        let inputs =
            entries.iter().flat_map(|entry| if is_claimed { by_rows(entry) } else { vec![entry.inputs.clone()] });
        check.parts = inputs.map(|inputs| Part { inputs, outputs: Vec::new() }).collect();
        for output in &answered.outputs {
            let of_part = output.split(&sizes);
            check.parts.iter_mut().zip(of_part).for_each(|(part, output)| part.outputs.push(output));
        }
        shared.sampler.is_due.store(false, Ordering::Relaxed);
        Some(check)
    }

    /// Runs each part alone and compares. Ends at the first difference.
    pub async fn run(self) {
        let count = self.parts.len();
        for part in &self.parts {
            // A run that does not succeed shows nothing.
            let Some(alone) = self.alone(part).await else { return };
            let Some((output, apart)) = self.difference(&part.outputs, &alone) else { continue };
            let Some(again) = self.alone(part).await else { return };
            let random = self.difference(&alone, &again).is_some();
            self.meters.batches_that_differed.inc();
            self.report(&output, apart, random, count);
            break;
        }
        self.meters.batches_checked.inc();
    }

    fn report(&self, output: &str, apart: f32, random: bool, count: usize) {
        let by =
            if apart.is_finite() { format!(" by {:.2} % of its largest value", apart * 100.0) } else { String::new() };
        let reason = if random {
            format!("equal inputs gave different results in output {output:?}")
        } else {
            format!("output {output:?} of a request in a batch of {count} differed{by} from that of the request alone")
        };
        if self.is_claimed {
            let model = self.shared.queue.model();
            warn!(model, reason, "results differ although the settings say independent_rows: true, which is obeyed");
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wrong_before_ms = Some(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        self.shared.revoke(&self.meters, Revocation { reason, random, wrong_before_ms });
    }

    /// `None` where the model did not answer.
    async fn alone(&self, part: &Part) -> Option<Vec<Tensor>> {
        let queue = &self.shared.queue;
        for urgency in [Urgency::Background, Urgency::Interactive] {
            let (mut entry, answered) = Entry::new(part.inputs.clone(), urgency);
            // Without rows it goes with no other request.
            entry.rows = None;
            entry.span = Span::none();
            if queue.push(entry).is_err() {
                return None;
            }
            let patience = PATIENCE.max(queue.pace.of_batch() * PATIENCE_BATCHES);
            if let Ok(answer) = timeout(patience, answered).await {
                return answer.ok()?.ok().map(|ran| ran.outputs);
            }
        }
        None
    }

    /// The first output whose results are further apart than rounding, and how far.
    fn difference(&self, one: &[Tensor], other: &[Tensor]) -> Option<(String, f32)> {
        let rounding = self.shared.mixing.decision().map_or(0.0, |decision| decision.rounding);
        one.iter().zip(other).zip(&self.usual).find_map(|((one, other), &usual)| {
            let apart = distance(one, other, usual);
            (apart > limit(one.datatype, rounding)).then(|| (one.name.clone(), apart))
        })
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.shared.sampler.is_busy.store(false, Ordering::Relaxed);
    }
}

/// Up to which distance results of a request in a batch and alone are equal, for a model whose rows differed by so much
/// rounding in the probe: a thousandth of the largest value for floats of 32 bits.
fn limit(datatype: Datatype, rounding: f32) -> f32 {
    (100.0 * same_size(datatype)).max(MORE_THAN_PROBED * rounding).min(other_size(datatype))
}

fn by_rows(entry: &Entry) -> Vec<Vec<Tensor>> {
    let mut columns: Vec<_> = entry.inputs.iter().map(|input| input.split_rows().into_iter()).collect();
    (0..entry.weight()).map(|_| columns.iter_mut().filter_map(Iterator::next).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_of_the_first_hundred_batches_and_one_in_a_thousand_are_sampled() {
        let sampled: Vec<u64> = (1..=3000).filter(|&number| is_sampled(number)).collect();
        assert_eq!(sampled, [1, 2, 4, 8, 16, 32, 64, 1000, 2000, 3000]);
    }

    #[test]
    fn a_batch_that_cannot_be_checked_leaves_its_turn_to_the_next() {
        let sampler = Sampler::default();
        assert!(sampler.picks() && !sampler.picks(), "one at a time");
        sampler.is_busy.store(false, Ordering::Relaxed);
        assert!(sampler.picks(), "still due");
        sampler.is_due.store(false, Ordering::Relaxed);
        sampler.is_busy.store(false, Ordering::Relaxed);
        assert!(sampler.picks(), "the fourth is a power of two");
    }

    #[test]
    fn the_limit_follows_the_rounding_that_the_probe_saw() {
        assert!((limit(Datatype::Fp32, 0.0) - 1e-3).abs() < 1e-6);
        assert!((limit(Datatype::Fp32, 5e-3) - 2e-2).abs() < 1e-6);
        assert!((limit(Datatype::Fp32, 1.0) - other_size(Datatype::Fp32)).abs() < 1e-6);
    }
}
