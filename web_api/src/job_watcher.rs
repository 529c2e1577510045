//! One watcher for each job that clients listen to: it polls the queue for all of them.
//!
//! A watcher looks at its job every [`POLL_INTERVAL`] and wakes its listeners when the job has changed. Pages of events are rendered once and
//! shared: listeners at the same place get the same bytes, so that a thousand of them cost one poll and one page. A listener at another
//! place reads a page of its own. Pages are reserved in the memory budget until the last connection has sent them.
//!
//! A watcher ends with its last listener, when the service stops, or when the queue does not answer; clients come back then.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use db_api::jobs::{Event, Found, Job, JobId, Jobs, Outcome, What};
use service::memory_budget::{MemoryBudget, Reservation};
use service::readiness::Readiness;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::sleep;

use crate::error::Error;
use crate::routes::jobs::body::{JobBody, ResultBody};

/// How often a job is looked at while somebody listens to it.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Requests that listen to one job at the same time.
pub const MAX_LISTENERS_PER_JOB: usize = 1024;

/// Requests that listen to any job at the same time.
pub const MAX_LISTENERS: usize = 4096;

/// Events on one page.
const MAX_PAGE_EVENTS: usize = 200;

/// Bytes of results on one page; a single result may have more.
const MAX_PAGE_BYTES: usize = 256 << 10;

/// Pages that are read at the same time: until it is read, the size of a page is not known.
const MAX_READS: usize = 2;

/// Names that are read though their inputs are not on the page, to read those beside them in one go.
const MAX_NAME_GAP: u32 = 32;

/// What an event takes on a page beside the texts in it.
const EVENT_BYTES: usize = 1 << 10;

/// The watchers of all jobs. Clones are the same.
#[derive(Clone)]
pub struct JobWatchers(Arc<Shared>);

struct Shared {
    jobs: Jobs,
    budget: MemoryBudget,
    readiness: Readiness,
    watched: Mutex<HashMap<JobId, Arc<Watched>>>,
    listeners: Arc<Semaphore>,
    reads: Semaphore,
}

/// A job that somebody listens to.
struct Watched {
    seen: watch::Sender<Seen>,
    /// The page that was read last.
    page: tokio::sync::Mutex<Option<Read>>,
}

/// A job as its watcher saw it last.
#[derive(Clone)]
struct Seen {
    job: Arc<Job>,
    /// Counts changes.
    version: u64,
}

/// A page, and what it is a page of.
struct Read {
    after: String,
    version: u64,
    page: Page,
}

/// Events in the form in which server-sent events travel.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Empty where there are none yet.
    pub text: Bytes,
    /// The id of the last event.
    pub last: String,
}

/// A listener to one job.
pub struct JobListener {
    shared: Arc<Shared>,
    watched: Arc<Watched>,
    seen: watch::Receiver<Seen>,
    _permit: OwnedSemaphorePermit,
}

impl JobWatchers {
    /// Watchers of `jobs` that reserve pages in `budget`, and end when the service stops.
    pub fn new(jobs: Jobs, budget: MemoryBudget, readiness: Readiness) -> Self {
        let listeners = Arc::new(Semaphore::new(MAX_LISTENERS));
        let (watched, reads) = (Mutex::default(), Semaphore::new(MAX_READS));
        Self(Arc::new(Shared { jobs, budget, readiness, watched, listeners, reads }))
    }

    /// Listens to `job`, as it was just found. Starts its watcher where there is none.
    pub fn listen(&self, job: Job) -> Result<JobListener, Error> {
        let too_many = |most| Error::TooManyListeners { most };
        let permit = Arc::clone(&self.0.listeners).try_acquire_owned().map_err(|_| too_many(MAX_LISTENERS))?;
        let id = job.id;
        let mut all = self.0.watched();
        let watched = all.entry(id).or_insert_with(|| {
            let (seen, _) = watch::channel(Seen { job: Arc::new(job), version: 0 });
            let watched = Arc::new(Watched { seen, page: tokio::sync::Mutex::default() });
            tokio::spawn(poll(Arc::clone(&self.0), id, Arc::clone(&watched)));
            watched
        });
        if watched.seen.receiver_count() >= MAX_LISTENERS_PER_JOB {
            return Err(too_many(MAX_LISTENERS_PER_JOB));
        }
        let (seen, watched) = (watched.seen.subscribe(), Arc::clone(watched));
        Ok(JobListener { shared: Arc::clone(&self.0), watched, seen, _permit: permit })
    }

    /// Jobs that are watched.
    pub fn count(&self) -> usize {
        self.0.watched().len()
    }
}

impl Shared {
    fn watched(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Watched>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at a job for as long as somebody listens to it.
async fn poll(shared: Arc<Shared>, id: JobId, watched: Arc<Watched>) {
    loop {
        sleep(POLL_INTERVAL).await;
        let is_stopping = shared.readiness.reason().is_some();
        let found = if is_stopping { Ok(Found::Unknown) } else { shared.jobs.find(id).await };
        let mut all = shared.watched();
        // Under the lock, so that nobody begins to listen meanwhile.
        let Ok(Found::Job(job)) = found else {
            all.remove(&id);
            // Wakes those that listen: `JobListener::changed` finds the watcher gone.
            watched.seen.send_modify(|seen| seen.version = u64::MAX);
            return;
        };
        if watched.seen.receiver_count() == 0 {
            all.remove(&id);
            return;
        }
        drop(all);
        watched.seen.send_if_modified(|seen| {
            let has_changed = *seen.job != *job;
            if has_changed {
                (seen.job, seen.version) = (job.into(), seen.version + 1);
            }
            has_changed
        });
    }
}

impl JobListener {
    /// The job as it was seen last; `None` when its watcher has ended.
    pub fn job(&self) -> Option<Arc<Job>> {
        let seen = self.seen.borrow();
        (seen.version < u64::MAX).then(|| Arc::clone(&seen.job))
    }

    /// Waits until the job is another than it was when this was called last. `None` when its watcher has ended.
    pub async fn changed(&mut self) -> Option<Arc<Job>> {
        self.seen.changed().await.ok()?;
        self.seen.mark_unchanged();
        self.job()
    }

    /// The events behind the one called `after`: a page of them, empty where there are none yet.
    pub async fn page(&self, after: &str) -> Result<Page, Error> {
        let mut last = self.watched.page.lock().await;
        let Seen { job, version } = self.seen.borrow().clone();
        if let Some(read) = &*last
            && read.after == after
            && (!read.page.text.is_empty() || read.version == version)
        {
            return Ok(read.page.clone());
        }
        let page = self.read(&job, after).await?;
        *last = Some(Read { after: after.to_owned(), version, page: page.clone() });
        Ok(page)
    }

    async fn read(&self, job: &Job, after: &str) -> Result<Page, Error> {
        let Shared { jobs, budget, reads, .. } = &*self.shared;
        let _read = reads.acquire().await.map_err(|_| Error::Internal)?;
        let mut events = jobs.events(job.id, after, MAX_PAGE_EVENTS).await?;
        let indices: Vec<u32> = events.iter().filter_map(index_of).collect();
        let outcomes = jobs.results(job.id, &indices, MAX_PAGE_BYTES).await?;
        if let Some(at) = place_of_nth(&events, outcomes.len()) {
            events.truncate(at);
        }
        if events.is_empty() {
            return Ok(Page::default());
        }
        let names = names(jobs, job.id, &indices[..outcomes.len()]).await?;
        let texts: usize = outcomes.iter().flatten().map(|outcome| text_of(outcome).len()).sum();
        // A character of a name may be written as six.
        let texts = texts + 6 * names.values().map(String::len).sum::<usize>();
        let mut memory = budget.shared_reservation();
        memory.reserve(texts + events.len() * EVENT_BYTES)?;
        // Later than its events, so that none of them is older than what is said of the job.
        let Found::Job(job) = jobs.find(job.id).await? else { return Err(Error::JobGone) };
        render(jobs, &job, &events, outcomes, &names, memory)
    }
}

fn index_of(event: &Event) -> Option<u32> {
    if let What::Ended(index) = event.what { Some(index) } else { None }
}

/// Where the first event stands whose result was not read, of `read` results.
fn place_of_nth(events: &[Event], read: usize) -> Option<usize> {
    let mut ended = (0..events.len()).filter(|&at| index_of(&events[at]).is_some());
    ended.nth(read)
}

/// The names of these inputs. Inputs end nearly in their order, so that a page takes few calls.
async fn names(jobs: &Jobs, job: JobId, indices: &[u32]) -> Result<HashMap<u32, String>, Error> {
    let mut sorted = indices.to_vec();
    sorted.sort_unstable();
    let mut names = HashMap::new();
    for run in sorted.chunk_by(|one, next| next - one <= MAX_NAME_GAP) {
        let (first, last) = (run[0], run[run.len() - 1]);
        names.extend((first..).zip(jobs.names(job, first..last + 1).await?));
    }
    Ok(names)
}

fn text_of(outcome: &Outcome) -> &str {
    let (Outcome::Answer(json) | Outcome::Error(json)) = outcome;
    json
}

/// The text of a page, which holds its memory for as long as any connection has it.
struct Text {
    text: Vec<u8>,
    _memory: Reservation,
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

fn render(
    jobs: &Jobs,
    job: &Job,
    events: &[Event],
    outcomes: Vec<Option<Outcome>>,
    names: &HashMap<u32, String>,
    mut memory: Reservation,
) -> Result<Page, Error> {
    let mut text = Vec::with_capacity(memory.bytes());
    let mut outcomes = outcomes.into_iter();
    for Event { id, what } in events {
        match what {
            What::Status(_) => write_event(&mut text, id, "status", &JobBody::of(jobs, job))?,
            What::Ended(index) => {
                // One that is being tried again has no outcome at the moment.
                let Some(outcome) = outcomes.next().flatten() else { continue };
                let name = names.get(index).map_or("", String::as_str);
                write_event(&mut text, id, "result", &ResultBody::new(*index, name, &outcome)?)?;
            }
        }
    }
    if text.is_empty() {
        // A comment: the listener goes on behind these events.
        text.extend_from_slice(b":\n\n");
    }
    memory.grow_to(text.capacity())?;
    let last = events.last().map(|event| event.id.clone()).unwrap_or_default();
    Ok(Page { text: Bytes::from_owner(Text { text, _memory: memory }), last })
}

/// An event as the HTML standard writes it (§9.2.6).
fn write_event(text: &mut Vec<u8>, id: &str, kind: &str, body: &impl serde::Serialize) -> Result<(), Error> {
    write!(text, "id: {id}\nevent: {kind}\ndata: ").map_err(|_| Error::Internal)?;
    let begin = text.len();
    serde_json::to_writer(&mut *text, body).map_err(|_| Error::Internal)?;
    // A line break would end the field. In JSON it stands between tokens alone, also in what other programs wrote.
    for byte in &mut text[begin..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    text.extend_from_slice(b"\n\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_before_the_first_event_whose_result_was_not_read() {
        let event = |what| Event { id: String::new(), what };
        let status = || event(What::Status(db_api::jobs::Status::Running));
        let events = [status(), event(What::Ended(4)), event(What::Ended(2)), status()];
        assert_eq!(place_of_nth(&events, 0), Some(1));
        assert_eq!(place_of_nth(&events, 1), Some(2));
        assert_eq!(place_of_nth(&events, 2), None);
    }

    #[test]
    fn an_event_is_one_line_of_data() {
        let mut text = Vec::new();
        let body = serde_json::value::RawValue::from_string("{\r\n\"a\": \"\\n\"}".to_owned()).unwrap();
        write_event(&mut text, "7-0", "result", &body).unwrap();
        assert_eq!(text, b"id: 7-0\nevent: result\ndata: {  \"a\": \"\\n\"}\n\n");
    }
}
