//! Who waits for an answer, and how work that nobody waits for makes room for him.
//!
//! That jobs go last in `model_api`'s queue is not enough on one machine: decoding, HTTP and Redis know no order, and some dozens of
//! inputs at a time keep every core busy. So while somebody asks in this process what has to be computed, each model's jobs go through one
//! lane, which rests after an input for as long as that took.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

/// So long after the last question nobody is there any more; nor does a lane rest for longer.
const GONE_AFTER: Duration = Duration::from_millis(200);

/// Knows when somebody asked last. Clones know the same.
#[derive(Clone, Debug)]
pub struct People {
    since: Instant,
    /// Milliseconds from `since`; 0 for never.
    asked: Arc<AtomicU64>,
}

/// What goes on beside people, one after the other.
#[derive(Clone, Debug)]
pub struct Lane(Arc<Semaphore>);

/// A turn in a lane; none is needed when nobody is there.
#[derive(Debug)]
pub struct Turn(Option<OwnedSemaphorePermit>);

impl Default for Lane {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Default for People {
    fn default() -> Self {
        Self { since: Instant::now(), asked: Arc::default() }
    }
}

impl People {
    /// Somebody asks for what has to be computed.
    pub fn are_asking(&self) {
        self.asked.store(self.now(), Ordering::Relaxed);
    }

    /// Waits for a turn in the lane; not at all when nobody is there.
    pub async fn turn(&self, lane: &Lane) -> Turn {
        if self.are_gone() {
            return Turn(None);
        }
        let turn = Arc::clone(&lane.0).acquire_owned().await.ok();
        // They may have gone while this waited, and then everything that waits may go at once.
        Turn(turn.filter(|_| !self.are_gone()))
    }

    fn are_gone(&self) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        asked == 0 || self.now() - asked > GONE_AFTER.as_millis() as u64
    }

    fn now(&self) -> u64 {
        // Never 0: that is never.
        self.since.elapsed().as_millis() as u64 + 1
    }
}

impl Turn {
    /// Runs `work`. Then the lane rests for as long as that took.
    pub async fn run<T>(self, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let done = work.await;
        if let Some(turn) = self.0 {
            let rest = begun.elapsed().min(GONE_AFTER);
            tokio::spawn(async move {
                sleep(rest).await;
                drop(turn);
            });
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    const WORK: Duration = Duration::from_millis(50);

    async fn work_in(people: &People, lane: &Lane, takes: Duration) {
        people.turn(lane).await.run(sleep(takes)).await;
    }

    /// How long four pieces of work take together.
    async fn four(people: &People, lane: &Lane) -> Duration {
        let begun = Instant::now();
        join_all((0..4).map(|_| work_in(people, lane, WORK))).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn all_at_once_when_nobody_asks() {
        let (people, lane) = (People::default(), Lane::default());
        assert_eq!(four(&people, &lane).await, WORK, "nobody has asked yet");
        people.are_asking();
        sleep(GONE_AFTER * 2).await;
        assert_eq!(four(&people, &lane).await, WORK, "they have gone");
    }

    #[tokio::test(start_paused = true)]
    async fn one_after_the_other_and_half_of_the_time_while_somebody_asks() {
        let (people, lane) = (People::default(), Lane::default());
        let asking = people.clone();
        let ask = tokio::spawn(async move {
            loop {
                asking.are_asking();
                sleep(GONE_AFTER / 10).await;
            }
        });
        sleep(Duration::from_millis(1)).await;
        assert_eq!(four(&people, &lane).await, WORK * 7);
        ask.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_its_turn_goes_when_they_have_gone() {
        let (people, lane) = (People::default(), Lane::default());
        people.are_asking();
        // The first takes longer than they stay, and with its rest it would hold up the others for half a second each.
        let begun = Instant::now();
        join_all((0..4).map(|_| work_in(&people, &lane, GONE_AFTER * 2))).await;
        assert_eq!(begun.elapsed(), GONE_AFTER * 5);
    }
}
