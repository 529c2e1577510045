//! Pages of job events in the format of server-sent events.

use std::collections::HashMap;
use std::io::Write as _;

use bytes::Bytes;
use db_api::jobs::{Event, EventKind, Job, JobId, JobLookup, Jobs, Outcome};
use service::memory_budget::{MemoryBudget, Reservation};

use crate::error::Error;
use crate::job_views::{JobBody, ResultBody};

/// Events on a page.
const MAX_PAGE_EVENTS: usize = 200;

/// Bytes of results on a page. A page with a single result may be larger.
const MAX_PAGE_BYTES: usize = 256 << 10;

/// Gap between input indices up to which names are read in one call, including those that are not on the page.
const MAX_NAME_GAP: u32 = 32;

/// Size of an event on a page without the texts in it.
const EVENT_BYTES: usize = 1 << 10;

/// A page of events.
#[derive(Clone, Debug, Default)]
pub struct EventPage {
    /// Empty if there are no events yet.
    pub text: Bytes,
    /// ID of the last event.
    pub last: String,
}

impl EventPage {
    /// Reads the events of `job` after the event with the ID `after`. Reserves the page in `budget` until it has been sent.
    pub async fn read(jobs: &Jobs, budget: &MemoryBudget, job: JobId, after: &str) -> Result<Self, Error> {
        let mut events = jobs.events(job, after, MAX_PAGE_EVENTS).await?;
        let indices: Vec<u32> = events.iter().filter_map(input_index).collect();
        let outcomes = jobs.results(job, &indices, MAX_PAGE_BYTES).await?;
        if let Some(position) = position_of_nth_result(&events, outcomes.len()) {
            events.truncate(position);
        }
        if events.is_empty() {
            return Ok(Self::default());
        }
        let names = read_names(jobs, job, &indices[..outcomes.len()]).await?;
        let texts: usize = outcomes.iter().flatten().map(|outcome| json_of(outcome).len()).sum();
        // Escaping may turn a character of a name into six.
        let texts = texts + 6 * names.values().map(String::len).sum::<usize>();
        let mut memory = budget.shared_reservation();
        memory.reserve(texts + events.len() * EVENT_BYTES)?;
        // Read after its events, so that the job is never older than an event on the page.
        let JobLookup::Found(job) = jobs.find(job).await? else { return Err(Error::JobExpired) };
        render(jobs, &job, &events, outcomes, &names, memory)
    }
}

fn input_index(event: &Event) -> Option<u32> {
    if let EventKind::InputFinished(index) = event.kind { Some(index) } else { None }
}

/// Position of the first event without a result, if the first `read` results were read.
fn position_of_nth_result(events: &[Event], read: usize) -> Option<usize> {
    let mut results = (0..events.len()).filter(|&position| input_index(&events[position]).is_some());
    results.nth(read)
}

/// The names of these inputs. Inputs finish nearly in order, so a page needs few calls.
async fn read_names(jobs: &Jobs, job: JobId, indices: &[u32]) -> Result<HashMap<u32, String>, Error> {
    let mut sorted = indices.to_vec();
    sorted.sort_unstable();
    let mut names = HashMap::new();
    for run in sorted.chunk_by(|one, next| next - one <= MAX_NAME_GAP) {
        let (first, last) = (run[0], run[run.len() - 1]);
        names.extend((first..).zip(jobs.names(job, first..last + 1).await?));
    }
    Ok(names)
}

fn json_of(outcome: &Outcome) -> &str {
    let (Outcome::Success(json) | Outcome::Error(json)) = outcome;
    json
}

/// Text of a page, with its memory reservation. It lives until the last connection has sent the page.
struct ReservedText {
    text: Vec<u8>,
    _memory: Reservation,
}

impl AsRef<[u8]> for ReservedText {
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
) -> Result<EventPage, Error> {
    let mut text = Vec::with_capacity(memory.bytes());
    let mut outcomes = outcomes.into_iter();
    for event in events {
        match &event.kind {
            EventKind::StatusChanged(_) => write_event(&mut text, &event.id, "status", &JobBody::of(jobs, job))?,
            EventKind::InputFinished(index) => {
                // An input that is being retried has no outcome at the moment.
                let Some(outcome) = outcomes.next().flatten() else { continue };
                let name = names.get(index).map_or("", String::as_str);
                write_event(&mut text, &event.id, "result", &ResultBody::new(*index, name, &outcome)?)?;
            }
        }
    }
    if text.is_empty() {
        // A comment, so that the listener continues after these events.
        text.extend_from_slice(b":\n\n");
    }
    memory.grow_to(text.capacity())?;
    let last = events.last().map(|event| event.id.clone()).unwrap_or_default();
    Ok(EventPage { text: Bytes::from_owner(ReservedText { text, _memory: memory }), last })
}

/// Writes an event as the HTML standard defines it (§9.2.6).
fn write_event(text: &mut Vec<u8>, id: &str, kind: &str, body: &impl serde::Serialize) -> Result<(), Error> {
    write!(text, "id: {id}\nevent: {kind}\ndata: ").map_err(|_| Error::Internal)?;
    let start = text.len();
    serde_json::to_writer(&mut *text, body).map_err(|_| Error::Internal)?;
    // A line break would end the field. In JSON, line breaks occur only between tokens, also if another program wrote it.
    for byte in &mut text[start..] {
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
        let event = |what| Event { id: String::new(), kind: what };
        let status = || event(EventKind::StatusChanged(db_api::jobs::JobStatus::Running));
        let events = [status(), event(EventKind::InputFinished(4)), event(EventKind::InputFinished(2)), status()];
        assert_eq!(position_of_nth_result(&events, 0), Some(1));
        assert_eq!(position_of_nth_result(&events, 1), Some(2));
        assert_eq!(position_of_nth_result(&events, 2), None);
    }

    #[test]
    fn an_event_has_one_line_of_data() {
        let mut text = Vec::new();
        let body = serde_json::value::RawValue::from_string("{\r\n\"a\": \"\\n\"}".to_owned()).unwrap();
        write_event(&mut text, "7-0", "result", &body).unwrap();
        assert_eq!(text, b"id: 7-0\nevent: result\ndata: {  \"a\": \"\\n\"}\n\n");
    }
}
