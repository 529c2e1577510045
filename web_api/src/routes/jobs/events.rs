use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use db_api::jobs::{Event, JobId, What};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, header};
use tokio::time::sleep;

use super::body::{JobBody, ResultBody};
use super::job::{LOOK_EVERY, PAGE_BYTES};
use super::job_path::{JobPath, find};
use crate::app::App;
use crate::error::Error;

/// Events asked for at once.
const AT_A_TIME: usize = 200;

/// Proxies take a connection without a word for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Where somebody who listens is.
struct Listener {
    app: App,
    job: JobId,
    names: Arc<[String]>,
    after: String,
    to_send: VecDeque<Message>,
    is_over: bool,
}

/// `GET /jobs/{id}/events`: `status` with the job, and `result` with what came of an input. Whoever comes back with the
/// `Last-Event-ID` he has seen misses nothing.
pub async fn listen(State(app): State<App>, JobPath(job): JobPath, headers: HeaderMap) -> Result<Response, Error> {
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).unwrap_or_default();
    // It goes into a command to Redis.
    let is_ours = last.bytes().all(|b| b.is_ascii_digit() || b == b'-') && last.len() <= 40;
    let after = if is_ours { last.to_owned() } else { String::new() };
    let names = app.jobs.names(job.id, 0..job.total).await?.into();
    let listener = Listener { app, job: job.id, names, after, to_send: VecDeque::new(), is_over: false };
    let messages = stream::unfold(listener, |mut listener| async move {
        let message = listener.next().await?;
        Some((Ok::<_, Infallible>(message), listener))
    });
    let mut response = Sse::new(messages).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Some proxies collect answers before they pass them on, unless they are told not to.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

impl Listener {
    /// `None` when the job has ended and all has been told, or the service stops, or cannot know: clients come back.
    async fn next(&mut self) -> Option<Message> {
        while self.to_send.is_empty() {
            if self.is_over || self.app.readiness.reason().is_some() {
                return None;
            }
            let events = self.app.jobs.events(self.job, &self.after, AT_A_TIME).await.ok()?;
            if events.is_empty() {
                let job = find(&self.app, self.job).await.ok()?;
                // Looked for again: it may have ended since.
                self.is_over =
                    job.status.has_ended() && self.app.jobs.events(self.job, &self.after, 1).await.ok()?.is_empty();
                sleep(LOOK_EVERY).await;
            } else {
                self.tell(events).await?;
            }
        }
        self.to_send.pop_front()
    }

    async fn tell(&mut self, events: Vec<Event>) -> Option<()> {
        let index_of = |event: &Event| if let What::Ended(index) = event.what { Some(index) } else { None };
        let indices: Vec<u32> = events.iter().filter_map(index_of).collect();
        let mut outcomes = self.app.jobs.results(self.job, &indices, PAGE_BYTES).await.ok()?.into_iter();
        let job = find(&self.app, self.job).await.ok()?;
        for event in events {
            let outcome = match event.what {
                What::Ended(_) => match outcomes.next() {
                    Some(outcome) => outcome,
                    // The page is full; the next one begins here.
                    None => break,
                },
                What::Status(_) => None,
            };
            self.after.clone_from(&event.id);
            let message = Message::default().id(event.id);
            let message = match event.what {
                What::Ended(index) => {
                    // One that is being tried again has no outcome at the moment.
                    let Some(outcome) = outcome else { continue };
                    let name = self.names.get(index as usize).map_or("", String::as_str);
                    let body = ResultBody::new(index, name, &outcome).ok()?;
                    message.event("result").json_data(body)
                }
                What::Status(_) => message.event("status").json_data(JobBody::new(&self.app, &job)),
            };
            self.to_send.push_back(message.ok()?);
        }
        Some(())
    }
}
