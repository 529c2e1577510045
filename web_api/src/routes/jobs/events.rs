use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use http::{HeaderMap, header};
use tokio::time::timeout;

use crate::error::Error;
use crate::http::extract::job_path::JobPath;
use crate::jobs::watcher::JobListener;
use crate::state::AppState;

/// Interval of comments in an idle stream. Proxies close a connection without traffic.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Maximum length of an event ID. Redis creates shorter ones.
const MAX_EVENT_ID_LENGTH: usize = 40;

/// Comment, which clients ignore.
const COMMENT: Bytes = Bytes::from_static(b":\n\n");

/// Event stream of one client.
struct EventStream {
    listener: JobListener,
    /// ID of the last event that was sent.
    last_event_id: String,
}

/// `GET /jobs/{id}/events`: events `status` with the job, and `result` with the result of an input.
///
/// A client that reconnects with `Last-Event-ID` continues after that event.
pub async fn stream(State(app): State<AppState>, JobPath(job): JobPath, headers: HeaderMap) -> Result<Response, Error> {
    let id = headers.get("last-event-id").and_then(|value| value.to_str().ok()).unwrap_or_default();
    // The ID becomes an argument of a Redis command.
    let is_valid = id.bytes().all(|b| b.is_ascii_digit() || b == b'-') && id.len() <= MAX_EVENT_ID_LENGTH;
    let last_event_id = if is_valid { id.to_owned() } else { String::new() };
    let events = EventStream { listener: app.watchers.listen(job)?, last_event_id };
    let body = unfold(events, |mut events| async move {
        let text = events.next().await?;
        Some((Ok::<_, Infallible>(text), events))
    });
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/event-stream"),
        (header::CACHE_CONTROL.as_str(), "no-store"),
        // Disables response buffering in nginx and similar proxies.
        ("x-accel-buffering", "no"),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

impl EventStream {
    /// Returns the next events as text. `None` ends the stream: the job has ended and all events were sent, the service stops, or the
    /// queue is unavailable. Clients reconnect.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            // Read before the events: if the job has ended by then, all of its events exist.
            let job = self.listener.job()?;
            let page = self.listener.page(&self.last_event_id).await.ok()?;
            if !page.text.is_empty() {
                self.last_event_id = page.last;
                return Some(page.text);
            }
            if job.status.has_ended() {
                return None;
            }
            match timeout(KEEP_ALIVE_INTERVAL, self.listener.changed()).await {
                Ok(changed) => changed?,
                Err(_) => return Some(COMMENT),
            };
        }
    }
}
