//! Operations of workers on the in-memory queue.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::InMemoryJobs;
use super::job::{JobState, now_ms};
use crate::jobs::types::{Delivery, EventKind, JobStatus, Outcome, Work};

/// How long [`InMemoryJobs::receive`] waits on an empty queue.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(1);

impl InMemoryJobs {
    pub(in crate::jobs) async fn receive(&self, model: &str, limit: usize) -> Vec<Delivery> {
        let started = Instant::now();
        loop {
            let arrival = self.arrivals.notified();
            let deliveries = self.receive_now(model, limit);
            let remaining = RECEIVE_TIMEOUT.saturating_sub(started.elapsed());
            if !deliveries.is_empty() || timeout(remaining, arrival).await.is_err() {
                return deliveries;
            }
        }
    }

    pub(super) fn receive_now(&self, model: &str, limit: usize) -> Vec<Delivery> {
        let mut state = self.state.lock();
        let Some(queue) = state.queues.get_mut(model) else { return Vec::new() };
        let delivery =
            |(job, index)| Delivery { model: model.to_owned(), entry: format!("{job}-{index}"), job, index, bytes: 0 };
        queue.drain(..queue.len().min(limit)).map(delivery).collect()
    }

    pub(in crate::jobs) fn start(&self, delivery: &Delivery) -> Option<Work> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let job = state.jobs.get_mut(&delivery.job).filter(|job| !job.job.status.has_ended())?;
        let data = job.inputs.get(&delivery.index)?.clone();
        if job.job.status == JobStatus::Queued {
            job.job.status = JobStatus::Running;
            job.job.started_ms = Some(now_ms());
            let added = job.add_event(EventKind::StatusChanged(JobStatus::Running));
            job.charge(&mut state.bytes, added);
        }
        job.job.runs += 1;
        Some(Work { spec: job.spec.clone(), data, _reservation: None })
    }

    pub(in crate::jobs) fn finish(&self, delivery: &Delivery, outcome: &Outcome) -> bool {
        self.state.lock().record_outcome(delivery.job, delivery.index, outcome)
    }

    pub(in crate::jobs) fn requeue(&self, deliveries: &[Delivery]) {
        let mut state = self.state.lock();
        for Delivery { model, job, index, .. } in deliveries.iter().rev() {
            let is_open = |job: &JobState| !job.job.status.has_ended() && !job.results.contains_key(index);
            if state.jobs.get(job).is_some_and(is_open) {
                state.queues.entry(model.clone()).or_default().push_front((*job, *index));
            }
        }
        self.arrivals.notify_waiters();
    }
}
