use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, header};
use tokio::time::timeout;

use super::job_path::JobPath;
use crate::app::App;
use crate::error::Error;
use crate::jobs::watcher::JobListener;

/// Proxies take a connection without a word for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A comment, which clients skip.
const COMMENT: Bytes = Bytes::from_static(b":\n\n");

/// A client, and where in the job's events it is.
struct Stream {
    listener: JobListener,
    after: String,
}

/// `GET /jobs/{id}/events`: `status` with the job, and `result` with what came of an input. Whoever comes back with the
/// `Last-Event-ID` he has seen misses nothing.
pub async fn listen(State(app): State<App>, JobPath(job): JobPath, headers: HeaderMap) -> Result<Response, Error> {
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).unwrap_or_default();
    // It goes into a command to Redis.
    let is_ours = last.bytes().all(|b| b.is_ascii_digit() || b == b'-') && last.len() <= 40;
    let after = if is_ours { last.to_owned() } else { String::new() };
    let stream = Stream { listener: app.watchers.listen(job)?, after };
    let text = stream::unfold(stream, |mut stream| async move {
        let text = stream.next().await?;
        Some((Ok::<_, Infallible>(text), stream))
    });
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/event-stream"),
        (header::CACHE_CONTROL.as_str(), "no-store"),
        // Some proxies collect answers before they pass them on, unless they are told not to.
        ("x-accel-buffering", "no"),
    ];
    Ok((headers, Body::from_stream(text)).into_response())
}

impl Stream {
    /// `None` when the job has ended and all has been sent, or the service stops, or cannot know: clients come back.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            // Before its events are read: those of a job that has ended by now are all there.
            let job = self.listener.job()?;
            let page = self.listener.page(&self.after).await.ok()?;
            if !page.text.is_empty() {
                self.after = page.last;
                return Some(page.text);
            }
            if job.status.has_ended() {
                return None;
            }
            match timeout(KEEP_ALIVE, self.listener.changed()).await {
                Ok(changed) => changed?,
                Err(_) => return Some(COMMENT),
            };
        }
    }
}
