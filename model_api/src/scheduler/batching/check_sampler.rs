//! Sampler: selects the batches whose results are checked against those of their requests alone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One in this many batches of several requests is checked.
const SAMPLE_INTERVAL: u64 = 1000;

/// Among this many first batches, those whose number is a power of two are checked as well.
const INITIAL_BATCHES: u64 = 100;

/// Batch counter of one model.
#[derive(Debug, Default)]
pub struct CheckSampler {
    batches: AtomicU64,
    is_due: AtomicBool,
    /// One check at a time.
    is_busy: AtomicBool,
}

impl CheckSampler {
    /// Counts a batch of several requests. Returns whether the batch is to be checked. If so, the caller ends the check with
    /// [`Self::release`].
    pub fn should_check(&self) -> bool {
        let number = self.batches.fetch_add(1, Ordering::Relaxed) + 1;
        if is_sampled(number) {
            self.is_due.store(true, Ordering::Relaxed);
        }
        self.is_due.load(Ordering::Relaxed) && !self.is_busy.swap(true, Ordering::Relaxed)
    }

    /// Records that the due check is running. Without this call the next batch is checked instead.
    pub fn clear_due(&self) {
        self.is_due.store(false, Ordering::Relaxed);
    }

    /// Allows the next check.
    pub fn release(&self) {
        self.is_busy.store(false, Ordering::Relaxed);
    }
}

fn is_sampled(number: u64) -> bool {
    number.is_multiple_of(SAMPLE_INTERVAL) || (number <= INITIAL_BATCHES && number.is_power_of_two())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_powers_of_two_up_to_one_hundred_and_every_thousandth_batch() {
        let sampled: Vec<u64> = (1..=3000).filter(|&number| is_sampled(number)).collect();
        assert_eq!(sampled, [1, 2, 4, 8, 16, 32, 64, 1000, 2000, 3000]);
    }

    #[test]
    fn a_check_stays_due_until_a_batch_can_be_checked() {
        let sampler = CheckSampler::default();
        assert!(sampler.should_check() && !sampler.should_check(), "one check at a time");
        sampler.release();
        assert!(sampler.should_check(), "still due");
        sampler.clear_due();
        sampler.release();
        assert!(sampler.should_check(), "batch 4 is a power of two");
    }
}
