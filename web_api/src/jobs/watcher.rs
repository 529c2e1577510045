//! Job watchers: one poller per job that clients listen to, shared by all of its listeners.
//!
//! A watcher polls its job every [`POLL_INTERVAL`] and wakes the listeners when the job has changed. Pages of events are rendered once
//! and shared: listeners at the same position get the same bytes, so a thousand listeners cost one poll and one page. A listener at
//! another position reads its own page. Pages are reserved in the memory budget until the last connection has sent them.
//!
//! A watcher ends with its last listener, when the service stops, or when the queue is unreachable. Clients reconnect then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use db_api::jobs::{Job, JobId, JobLookup, Jobs};
use service::memory_budget::MemoryBudget;
use service::readiness::Readiness;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::sleep;

use crate::error::Error;

pub use super::event_page::EventPage;

/// Time between two polls of a job that has listeners.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Concurrent listeners to one job.
pub const MAX_LISTENERS_PER_JOB: usize = 1024;

/// Concurrent listeners to all jobs.
pub const MAX_LISTENERS: usize = 4096;

/// Pages read concurrently. The size of a page is unknown until it has been read.
const MAX_CONCURRENT_READS: usize = 2;

/// Watchers of all jobs. Clones share them.
#[derive(Clone)]
pub struct JobWatchers(Arc<Shared>);

struct Shared {
    jobs: Jobs,
    budget: MemoryBudget,
    readiness: Readiness,
    watched: Mutex<HashMap<JobId, Arc<WatchedJob>>>,
    listeners: Arc<Semaphore>,
    reads: Semaphore,
}

/// A job with listeners.
struct WatchedJob {
    state: watch::Sender<JobState>,
    last_page: tokio::sync::Mutex<Option<CachedPage>>,
}

/// A job at the last poll.
#[derive(Clone)]
struct JobState {
    job: Arc<Job>,
    /// Counts changes. [`u64::MAX`] once the watcher has ended.
    version: u64,
}

/// A page of events, with the position and the state of the job that it was read at.
struct CachedPage {
    after: String,
    version: u64,
    page: EventPage,
}

/// A listener to one job.
pub struct JobListener {
    shared: Arc<Shared>,
    watched: Arc<WatchedJob>,
    state: watch::Receiver<JobState>,
    _permit: OwnedSemaphorePermit,
}

impl JobWatchers {
    /// Watchers of `jobs` that reserve pages in `budget`, and end when the service stops.
    pub fn new(jobs: Jobs, budget: MemoryBudget, readiness: Readiness) -> Self {
        let listeners = Arc::new(Semaphore::new(MAX_LISTENERS));
        let (watched, reads) = (Mutex::default(), Semaphore::new(MAX_CONCURRENT_READS));
        Self(Arc::new(Shared { jobs, budget, readiness, watched, listeners, reads }))
    }

    /// Listens to `job`, which has just been read. Starts a watcher if it has none.
    pub fn listen(&self, job: Job) -> Result<JobListener, Error> {
        let too_many = |max| Error::TooManyListeners { max };
        let permit = Arc::clone(&self.0.listeners).try_acquire_owned().map_err(|_| too_many(MAX_LISTENERS))?;
        let id = job.id;
        let mut all = self.0.watched();
        let watched = all.entry(id).or_insert_with(|| {
            let (state, _) = watch::channel(JobState { job: Arc::new(job), version: 0 });
            let watched = Arc::new(WatchedJob { state, last_page: tokio::sync::Mutex::default() });
            tokio::spawn(poll(Arc::clone(&self.0), id, Arc::clone(&watched)));
            watched
        });
        if watched.state.receiver_count() >= MAX_LISTENERS_PER_JOB {
            return Err(too_many(MAX_LISTENERS_PER_JOB));
        }
        let (state, watched) = (watched.state.subscribe(), Arc::clone(watched));
        Ok(JobListener { shared: Arc::clone(&self.0), watched, state, _permit: permit })
    }

    /// Number of watched jobs.
    pub fn count(&self) -> usize {
        self.0.watched().len()
    }
}

impl Shared {
    fn watched(&self) -> MutexGuard<'_, HashMap<JobId, Arc<WatchedJob>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Polls a job while it has listeners.
async fn poll(shared: Arc<Shared>, id: JobId, watched: Arc<WatchedJob>) {
    loop {
        sleep(POLL_INTERVAL).await;
        let is_stopping = shared.readiness.reason().is_some();
        let found = if is_stopping { Ok(JobLookup::Unknown) } else { shared.jobs.find(id).await };
        // Held until the watcher is removed, so that no listener is added meanwhile.
        let mut all = shared.watched();
        let Ok(JobLookup::Found(job)) = found else {
            all.remove(&id);
            // Wakes the listeners, whose `JobListener::changed` then returns `None`.
            watched.state.send_modify(|state| state.version = u64::MAX);
            return;
        };
        if watched.state.receiver_count() == 0 {
            all.remove(&id);
            return;
        }
        drop(all);
        watched.state.send_if_modified(|state| {
            let has_changed = *state.job != *job;
            if has_changed {
                (state.job, state.version) = (job.into(), state.version + 1);
            }
            has_changed
        });
    }
}

impl JobListener {
    /// The job at the last poll; `None` once its watcher has ended.
    pub fn job(&self) -> Option<Arc<Job>> {
        let state = self.state.borrow();
        (state.version < u64::MAX).then(|| Arc::clone(&state.job))
    }

    /// Waits until the job has changed since the last call. `None` once its watcher has ended.
    pub async fn changed(&mut self) -> Option<Arc<Job>> {
        self.state.changed().await.ok()?;
        self.state.mark_unchanged();
        self.job()
    }

    /// A page of the events after the event with the ID `after`; empty if there are none yet.
    pub async fn page(&self, after: &str) -> Result<EventPage, Error> {
        let mut last = self.watched.last_page.lock().await;
        let JobState { job, version } = self.state.borrow().clone();
        if let Some(cached) = &*last
            && cached.after == after
            && (!cached.page.text.is_empty() || cached.version == version)
        {
            return Ok(cached.page.clone());
        }
        let page = self.read_page(job.id, after).await?;
        *last = Some(CachedPage { after: after.to_owned(), version, page: page.clone() });
        Ok(page)
    }

    async fn read_page(&self, job: JobId, after: &str) -> Result<EventPage, Error> {
        let Shared { jobs, budget, reads, .. } = &*self.shared;
        let _permit = reads.acquire().await.map_err(|_| Error::Internal)?;
        EventPage::read(jobs, budget, job, after).await
    }
}
