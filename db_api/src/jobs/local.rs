use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::{
    Asked, Content, Delivery, Event, Found, Input, Job, JobError, JobId, JobLimits, NewJob, Outcome, QueueHealth,
    Status, Told, Tried, Webhook, WebhookClaim, What, Work,
};

/// So long an empty queue is waited at.
const WAIT: Duration = Duration::from_secs(1);

/// Inputs and results of all jobs together.
const MOST_BYTES: usize = 256 << 20;

/// So many ids of jobs that have been forgotten are told from those that never were.
const MOST_GONE: usize = 10_000;

/// The queue in this process. Its workers live as long as it does, so nothing is ever claimed from one that died.
#[derive(Clone)]
pub struct LocalJobs {
    state: Arc<Mutex<State>>,
    came: Arc<Notify>,
    limits: JobLimits,
}

#[derive(Default)]
struct State {
    jobs: HashMap<JobId, Kept>,
    queues: HashMap<String, VecDeque<(JobId, u32)>>,
    once: HashMap<String, (String, JobId)>,
    /// Jobs by their content, of each model.
    same: HashMap<String, HashMap<String, JobId>>,
    gone: VecDeque<JobId>,
    bytes: usize,
    /// Webhooks claimed so far.
    claims: u64,
}

struct Kept {
    job: Job,
    asked: Asked,
    names: Vec<String>,
    inputs: HashMap<u32, Bytes>,
    results: HashMap<u32, Outcome>,
    events: Vec<What>,
    once: Option<String>,
    content: Option<Content>,
    /// How long it is kept when it has ended.
    ttl: Duration,
    expires: Option<Instant>,
    /// When its webhook is tried, and by which claim it was tried last.
    webhook_due: Option<(Instant, u64)>,
}

/// Inputs of a job that is not submitted yet. Their bytes count among those of all jobs.
pub struct LocalUpload {
    jobs: LocalJobs,
    inputs: Vec<Input>,
    bytes: usize,
}

impl LocalUpload {
    pub(super) fn push(&mut self, mut input: Input) -> Result<(), JobError> {
        if input.known.is_some() {
            input.data = Bytes::new();
        }
        let mut state = self.jobs.state();
        if state.bytes + input.data.len() > MOST_BYTES {
            return Err(JobError::Full);
        }
        state.bytes += input.data.len();
        self.bytes += input.data.len();
        drop(state);
        self.inputs.push(input);
        Ok(())
    }
}

impl Drop for LocalUpload {
    fn drop(&mut self) {
        // A submitted one has given its bytes to its job.
        if self.bytes > 0 {
            self.jobs.state().bytes -= self.bytes;
        }
    }
}

impl LocalJobs {
    /// An empty one.
    pub fn new(limits: JobLimits) -> Self {
        Self { state: Arc::default(), came: Arc::default(), limits }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn upload(&self) -> LocalUpload {
        LocalUpload { jobs: self.clone(), inputs: Vec::new(), bytes: 0 }
    }

    pub(super) fn submit(&self, mut upload: LocalUpload, new: NewJob) -> Result<JobId, JobError> {
        let (inputs, bytes) = (std::mem::take(&mut upload.inputs), std::mem::take(&mut upload.bytes));
        let mut state = self.state();
        // They are counted again below, where the job is accepted.
        state.bytes -= bytes;
        if let Some(once) = &new.once
            && let Some((digest, id)) = state.once.get(&once.key)
        {
            return if *digest == once.digest { Ok(*id) } else { Err(JobError::Conflict) };
        }
        let waiting = inputs.iter().filter(|input| input.known.is_none()).count();
        let length = state.queues.get(&new.model).map_or(0, VecDeque::len);
        if waiting > 0 && length + waiting > self.limits.queue_length {
            return Err(JobError::Long(length as u64));
        }
        let id = JobId::random();
        let job = Job {
            id,
            model: new.model.clone(),
            status: Status::Queued,
            total: inputs.len() as u32,
            done: 0,
            failed: 0,
            dead: 0,
            runs: 0,
            created_ms: now_ms(),
            started_ms: None,
            finished_ms: None,
            expires_ms: None,
            webhook: new.webhook.map(Webhook::new),
            skipped: new.skipped,
        };
        let once = new.once.map(|once| {
            state.once.insert(once.key.clone(), (once.digest, id));
            once.key
        });
        let mut kept = Kept {
            job,
            asked: new.asked,
            names: Vec::new(),
            inputs: HashMap::new(),
            results: HashMap::new(),
            events: vec![What::Status(Status::Queued)],
            once,
            content: new.content,
            ttl: new.ttl.unwrap_or(self.limits.ttl),
            expires: None,
            webhook_due: None,
        };
        let mut known = Vec::new();
        for (index, input) in (0..).zip(inputs) {
            kept.names.push(input.name);
            if let Some(outcome) = input.known {
                known.push((index, outcome));
            } else {
                state.bytes += input.data.len();
                kept.inputs.insert(index, input.data);
                state.queues.entry(new.model.clone()).or_default().push_back((id, index));
            }
        }
        if let Some(content) = &kept.content {
            state.same.entry(new.model).or_default().insert(content.digest.clone(), id);
        }
        state.jobs.insert(id, kept);
        for (index, outcome) in known {
            Self::settle(&mut state, id, index, &outcome);
        }
        self.came.notify_waiters();
        Ok(id)
    }

    pub(super) fn repeat(&self, model: &str, content: &Content) -> Option<JobId> {
        let mut state = self.state();
        let first = state.jobs.get(state.same.get(model)?.get(&content.digest)?)?;
        let now = now_ms();
        let age = now.saturating_sub(first.job.finished_ms?);
        let bytes = first.bytes();
        if first.job.status != Status::Succeeded
            || u128::from(age) > self.limits.repeat_within.as_millis()
            || state.bytes + bytes > MOST_BYTES
        {
            return None;
        }
        let id = JobId::random();
        let ttl = self.limits.ttl;
        let again = Kept {
            job: Job {
                id,
                runs: 0,
                created_ms: now,
                started_ms: None,
                finished_ms: Some(now),
                expires_ms: Some(now + ttl.as_millis() as u64),
                webhook: None,
                ..first.job.clone()
            },
            asked: first.asked.clone(),
            names: first.names.clone(),
            inputs: HashMap::new(),
            results: first.results.clone(),
            events: first.events.clone(),
            once: None,
            content: None,
            ttl,
            expires: Some(Instant::now() + ttl),
            webhook_due: None,
        };
        state.bytes += bytes;
        state.jobs.insert(id, again);
        Some(id)
    }

    pub(super) fn forget(&self, model: &str) {
        self.state().same.remove(model);
    }

    /// Whoever is second changes nothing.
    fn settle(state: &mut State, id: JobId, index: u32, outcome: &Outcome) -> bool {
        let Some(kept) = state.jobs.get_mut(&id) else { return false };
        if kept.job.status.has_ended() || kept.results.contains_key(&index) {
            return false;
        }
        let (Outcome::Answer(json) | Outcome::Error(json)) = outcome;
        state.bytes += json.len();
        if matches!(outcome, Outcome::Answer(_)) {
            kept.job.done += 1;
            state.bytes -= kept.inputs.remove(&index).map_or(0, |input| input.len());
        } else {
            kept.job.failed += 1;
        }
        kept.results.insert(index, outcome.clone());
        kept.events.push(What::Ended(index));
        if kept.job.done + kept.job.failed == kept.job.total {
            let status = if kept.job.failed == 0 { Status::Succeeded } else { Status::Failed };
            kept.end(status);
        }
        let is_of = |content: &Content| json.contains(&format!("\"model_digest\":\"{}\"", content.model_digest));
        if !kept.content.as_ref().is_none_or(is_of) {
            let (model, content) = (kept.job.model.clone(), kept.content.take());
            state.forget_content(id, &model, content);
        }
        true
    }

    pub(super) fn find(&self, id: JobId) -> Found {
        let state = self.state();
        match state.jobs.get(&id) {
            Some(kept) => Found::Job(Box::new(kept.job.clone())),
            None if state.gone.contains(&id) => Found::Gone,
            None => Found::Unknown,
        }
    }

    pub(super) fn list(&self, wanted: impl Fn(&Job) -> bool, offset: usize, most: usize) -> Vec<Job> {
        let state = self.state();
        let mut jobs: Vec<_> = state.jobs.values().map(|kept| &kept.job).filter(|job| wanted(job)).collect();
        jobs.sort_by_key(|job| std::cmp::Reverse((job.created_ms, job.id.to_string())));
        jobs.into_iter().skip(offset).take(most).cloned().collect()
    }

    pub(super) fn names(&self, id: JobId, inputs: Range<u32>) -> Vec<String> {
        let (first, count) = (inputs.start as usize, inputs.len());
        let state = self.state();
        state.jobs.get(&id).map_or_else(Vec::new, |kept| kept.names.iter().skip(first).take(count).cloned().collect())
    }

    pub(super) fn results(&self, id: JobId, indices: &[u32], most_bytes: usize) -> Vec<Option<Outcome>> {
        let state = self.state();
        let (mut results, mut bytes) = (Vec::new(), 0);
        for index in indices {
            let result = state.jobs.get(&id).and_then(|kept| kept.results.get(index));
            bytes += result.map_or(0, |result| result.json().len());
            if bytes > most_bytes && !results.is_empty() {
                break;
            }
            results.push(result.cloned());
        }
        results
    }

    /// Events are called by their number, in as many digits as Redis would have before its dash.
    pub(super) fn events(&self, id: JobId, after: &str, most: usize) -> Vec<Event> {
        let state = self.state();
        let first = after.split('-').next().and_then(|number| number.parse().ok()).unwrap_or(0_usize);
        let events = state.jobs.get(&id).map_or(&[][..], |kept| kept.events.get(first..).unwrap_or_default());
        let named = |(number, what): (usize, &What)| Event { id: format!("{number}-0"), what: *what };
        (first + 1..).zip(events).take(most).map(named).collect()
    }

    pub(super) fn cancel(&self, id: JobId) -> bool {
        let mut state = self.state();
        let Some(kept) = state.jobs.get_mut(&id).filter(|kept| !kept.job.status.has_ended()) else { return false };
        kept.end(Status::Cancelled);
        let (model, inputs) = (kept.job.model.clone(), std::mem::take(&mut kept.inputs));
        state.bytes -= inputs.values().map(Bytes::len).sum::<usize>();
        if let Some(queue) = state.queues.get_mut(&model) {
            queue.retain(|(job, _)| *job != id);
        }
        true
    }

    pub(super) fn retry(&self, id: JobId) -> Option<u32> {
        let mut state = self.state();
        let kept = state.jobs.get_mut(&id).filter(|kept| kept.job.status == Status::Failed)?;
        let failed = |(index, outcome): (&u32, &Outcome)| {
            (matches!(outcome, Outcome::Error(_)) && kept.inputs.contains_key(index)).then_some(*index)
        };
        let mut again: Vec<u32> = kept.results.iter().filter_map(failed).collect();
        if again.is_empty() {
            return None;
        }
        again.sort_unstable();
        let mut freed = 0;
        for index in &again {
            if let Some(Outcome::Error(json)) = kept.results.remove(index) {
                freed += json.len();
            }
        }
        kept.job.failed -= again.len() as u32;
        kept.job.status = Status::Queued;
        (kept.job.finished_ms, kept.job.expires_ms, kept.expires) = (None, None, None);
        kept.webhook_due = None;
        kept.job.webhook = kept.job.webhook.take().map(|webhook| Webhook::new(webhook.url));
        kept.events.push(What::Status(Status::Queued));
        let model = kept.job.model.clone();
        state.bytes -= freed;
        state.queues.entry(model).or_default().extend(again.iter().map(|index| (id, *index)));
        self.came.notify_waiters();
        Some(again.len() as u32)
    }

    pub(super) async fn take(&self, model: &str, most: usize) -> Vec<Delivery> {
        let begun = Instant::now();
        loop {
            let came = self.came.notified();
            let taken = self.take_now(model, most);
            if !taken.is_empty() || timeout(WAIT.saturating_sub(begun.elapsed()), came).await.is_err() {
                return taken;
            }
        }
    }

    fn take_now(&self, model: &str, most: usize) -> Vec<Delivery> {
        let mut state = self.state();
        let Some(queue) = state.queues.get_mut(model) else { return Vec::new() };
        let delivery =
            |(job, index)| Delivery { model: model.to_owned(), entry: format!("{job}-{index}"), job, index, bytes: 0 };
        queue.drain(..queue.len().min(most)).map(delivery).collect()
    }

    pub(super) fn begin(&self, delivery: &Delivery) -> Option<Work> {
        let mut state = self.state();
        let kept = state.jobs.get_mut(&delivery.job).filter(|kept| !kept.job.status.has_ended())?;
        let data = kept.inputs.get(&delivery.index)?.clone();
        if kept.job.status == Status::Queued {
            kept.job.status = Status::Running;
            kept.job.started_ms = Some(now_ms());
            kept.events.push(What::Status(Status::Running));
        }
        kept.job.runs += 1;
        Some(Work { asked: kept.asked.clone(), data, _held: None })
    }

    pub(super) fn finish(&self, delivery: &Delivery, outcome: &Outcome) -> bool {
        Self::settle(&mut self.state(), delivery.job, delivery.index, outcome)
    }

    pub(super) fn hand_back(&self, deliveries: &[Delivery]) {
        let mut state = self.state();
        for Delivery { model, job, index, .. } in deliveries.iter().rev() {
            let is_open = |kept: &Kept| !kept.job.status.has_ended() && !kept.results.contains_key(index);
            if state.jobs.get(job).is_some_and(is_open) {
                state.queues.entry(model.clone()).or_default().push_front((*job, *index));
            }
        }
        self.came.notify_waiters();
    }

    pub(super) fn claim_webhooks(&self, most: usize, lease: Duration) -> Vec<WebhookClaim> {
        let now = Instant::now();
        let mut state = self.state();
        let State { jobs, claims, .. } = &mut *state;
        let is_due = |kept: &&mut Kept| kept.webhook_due.is_some_and(|(due, _)| due <= now);
        let claim = |kept: &mut Kept| {
            *claims += 1;
            kept.webhook_due = Some((now + lease, *claims));
            if let Some(webhook) = &mut kept.job.webhook {
                webhook.tries += 1;
            }
            WebhookClaim { job: kept.job.id, claim: *claims }
        };
        jobs.values_mut().filter(is_due).take(most).map(claim).collect()
    }

    pub(super) fn settle_webhook(&self, claim: &WebhookClaim, tried: &Tried) -> bool {
        let mut state = self.state();
        let Some(kept) = state.jobs.get_mut(&claim.job) else { return false };
        let (Some((_, last)), Some(webhook)) = (kept.webhook_due, &mut kept.job.webhook) else { return false };
        if last != claim.claim {
            return false;
        }
        (webhook.told, webhook.error, kept.webhook_due) = match tried.clone() {
            Tried::Delivered => (Some(Told::Delivered), None, None),
            Tried::Again(pause, error) => (None, Some(error), Some((Instant::now() + pause, 0))),
            Tried::GivenUp(error) => (Some(Told::Failed), Some(error), None),
        };
        true
    }

    pub(super) fn sweep(&self) {
        let mut state = self.state();
        let over = |kept: &Kept| kept.expires.is_some_and(|expires| expires <= Instant::now());
        let ids: Vec<JobId> = state.jobs.iter().filter(|(_, kept)| over(kept)).map(|(id, _)| *id).collect();
        for id in ids {
            state.remove(id);
        }
    }

    pub(super) fn delete(&self, id: JobId) -> bool {
        let mut state = self.state();
        let has_ended = state.jobs.get(&id).is_some_and(|kept| kept.job.status.has_ended());
        if has_ended {
            state.remove(id);
        }
        has_ended
    }

    pub(super) fn health(&self) -> QueueHealth {
        let state = self.state();
        let waiting = state.queues.values().map(VecDeque::len).sum::<usize>() as u64;
        QueueHealth { waiting, bytes: state.bytes as u64, bytes_limit: MOST_BYTES as u64 }
    }
}

impl State {
    /// Nothing of a job stays but its id.
    fn remove(&mut self, id: JobId) {
        let Some(kept) = self.jobs.remove(&id) else { return };
        self.bytes -= kept.bytes();
        if let Some(once) = kept.once {
            self.once.remove(&once);
        }
        self.forget_content(id, &kept.job.model, kept.content);
        self.gone.push_back(id);
        let too_many = self.gone.len().saturating_sub(MOST_GONE);
        self.gone.drain(..too_many);
    }

    /// A job is no longer the one that is repeated.
    fn forget_content(&mut self, id: JobId, model: &str, content: Option<Content>) {
        if let Some(same) = self.same.get_mut(model)
            && let Some(content) = content
            && same.get(&content.digest) == Some(&id)
        {
            same.remove(&content.digest);
        }
    }
}

impl Kept {
    fn end(&mut self, status: Status) {
        let now = now_ms();
        self.job.status = status;
        self.job.finished_ms = Some(now);
        self.job.expires_ms = Some(now + self.ttl.as_millis() as u64);
        self.expires = Some(Instant::now() + self.ttl);
        self.webhook_due = self.job.webhook.is_some().then(|| (Instant::now(), 0));
        self.events.push(What::Status(status));
    }

    fn bytes(&self) -> usize {
        let results = self.results.values().map(|(Outcome::Answer(json) | Outcome::Error(json))| json.len());
        self.inputs.values().map(Bytes::len).chain(results).sum()
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::{Kind, Skipped};

    const LEASE: Duration = Duration::from_mins(1);

    fn ended_with_a_webhook() -> (LocalJobs, JobId) {
        let ttl = Duration::from_hours(24);
        let limits = JobLimits { ttl, queue_length: 10, repeat_within: ttl, claim_after: ttl, max_deliveries: 3 };
        let jobs = LocalJobs::new(limits);
        let asked =
            Asked { kind: Kind::Image, version: None, content_type: String::new(), json_length: None, top_k: None };
        let inputs = vec![Input { name: String::new(), data: Bytes::from_static(b"i"), known: None }];
        let webhook = Some("http://hooks.example.org/".to_owned());
        let job = NewJob {
            model: "m".to_owned(),
            asked,
            inputs: Vec::new(),
            once: None,
            content: None,
            webhook,
            ttl: None,
            skipped: Skipped::default(),
        };
        let mut upload = jobs.upload();
        for input in inputs {
            upload.push(input).unwrap();
        }
        let id = jobs.submit(upload, job).unwrap();
        assert!(jobs.claim_webhooks(9, LEASE).is_empty(), "the job has not ended");
        let taken = jobs.take_now("m", 1);
        assert!(jobs.finish(&taken[0], &Outcome::Error("{}".to_owned())));
        (jobs, id)
    }

    fn webhook(jobs: &LocalJobs, id: JobId) -> Webhook {
        match jobs.find(id) {
            Found::Job(job) => job.webhook.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_webhook_is_claimed_once_until_its_lease_is_over() {
        let (jobs, id) = ended_with_a_webhook();
        let first = jobs.claim_webhooks(9, LEASE);
        assert_eq!(first.iter().map(|claim| claim.job).collect::<Vec<_>>(), [id]);
        assert!(jobs.claim_webhooks(9, LEASE).is_empty());
        tokio::time::advance(LEASE).await;
        let second = jobs.claim_webhooks(9, LEASE);
        assert_eq!((second.len(), webhook(&jobs, id).tries), (1, 2));
        assert!(!jobs.settle_webhook(&first[0], &Tried::Delivered));
        assert!(jobs.settle_webhook(&second[0], &Tried::Again(LEASE, "it answered 500".to_owned())));
        assert_eq!(webhook(&jobs, id).error.as_deref(), Some("it answered 500"));
        assert!(jobs.claim_webhooks(9, LEASE).is_empty());
        tokio::time::advance(LEASE).await;
        let third = jobs.claim_webhooks(9, LEASE);
        assert!(jobs.settle_webhook(&third[0], &Tried::Delivered));
        let told = Webhook { told: Some(Told::Delivered), tries: 3, ..Webhook::new(webhook(&jobs, id).url) };
        assert_eq!(webhook(&jobs, id), told);
        assert!(!jobs.settle_webhook(&third[0], &Tried::GivenUp("late".to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_is_tried_again_is_told_of_anew() {
        let (jobs, id) = ended_with_a_webhook();
        let claim = jobs.claim_webhooks(9, LEASE);
        assert_eq!(jobs.retry(id), Some(1));
        assert!(!jobs.settle_webhook(&claim[0], &Tried::Delivered));
        assert_eq!(webhook(&jobs, id), Webhook::new(webhook(&jobs, id).url));
        assert!(jobs.cancel(id));
        assert_eq!(jobs.claim_webhooks(9, LEASE).len(), 1);
    }
}
