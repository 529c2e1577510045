//! HTTP transport to the replicas of `model_api`: round robin, failover, and broadcast.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use service::request_id::current_request_id;
use service::runtime;
use service::shared_secret::SharedSecret;
use tokio::net::lookup_host;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::response::{error_from, read_body};
use crate::error::Error;
use crate::settings::Settings;

/// A running replica accepts a connection well within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Pause before another attempt, so that a replica that is being replaced can come back.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Replicas of `model_api`. Clones share connections and the round-robin position.
#[derive(Clone)]
pub struct Replicas {
    /// One client, with connections of its own, per core.
    http: Arc<[Client]>,
    urls: Arc<[Url]>,
    /// Headers of requests to the model repository: the shared secret, if one is set.
    credentials: HeaderMap,
    next: Arc<AtomicUsize>,
}

/// Body of a request, and the headers that describe it.
#[derive(Clone, Debug)]
pub struct Payload {
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Replicas {
    /// Connects on first use.
    pub fn new(settings: &Settings) -> reqwest::Result<Self> {
        let client = |_| {
            Client::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                // Shorter than the idle timeout of model_api, so that no request is sent on a connection that is being closed.
                .pool_idle_timeout(settings.server.idle_timeout / 2)
                // model_api is on a private network, which a proxy from the environment does not reach.
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .build()
        };
        Ok(Self {
            http: (0..runtime::core_count()).map(client).collect::<reqwest::Result<_>>()?,
            urls: settings.model_api.clone().into(),
            credentials: settings.model_api_secret.iter().map(SharedSecret::header).collect(),
            next: Arc::default(),
        })
    }

    /// Sends a request to one replica, with one `timeout` for all attempts.
    ///
    /// A replica that refuses the connection has received nothing, so the next replica is tried, or the only one again. A connection
    /// that breaks before the response may have been closed while it was idle, so the request is sent once more; inference has no
    /// side effects. It is never sent a third time: a request that crashes a replica must not reach all of them.
    pub async fn send_with_failover(
        &self,
        method: Method,
        path: &[&str],
        payload: Option<Payload>,
        request_id: Option<HeaderValue>,
        timeout: Duration,
    ) -> Result<Response, Error> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let deadline = Instant::now() + timeout;
        let mut was_sent = false;
        for attempt in 0..self.urls.len().max(2) {
            if attempt > 0 {
                sleep(RETRY_DELAY).await;
            }
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Err(Error::DeadlineExceeded);
            }
            let url = self.urls[(first + attempt) % self.urls.len()].clone();
            let request = self.request(method.clone(), url, path, payload.clone(), request_id.clone(), remaining);
            match request.send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => return Err(error_from(response).await),
                Err(error) if error.is_timeout() && !error.is_connect() => return Err(Error::DeadlineExceeded),
                Err(error) => {
                    let is_sent = !error.is_connect();
                    warn!(error = %error.without_url(), attempt, "model_api cannot be reached");
                    if is_sent && std::mem::replace(&mut was_sent, true) {
                        break;
                    }
                }
            }
        }
        Err(Error::ModelUnreachable)
    }

    /// Posts to all replicas concurrently.
    pub async fn broadcast(&self, path: &[&str], timeout: Duration) -> Vec<Result<Bytes, Error>> {
        let urls = join_all(self.urls.iter().cloned().map(resolve)).await;
        let send = async |url: Url| match self
            .request(Method::POST, url, path, None, current_request_id(), timeout)
            .headers(self.credentials.clone())
            .send()
            .await
        {
            Ok(response) if response.status().is_success() => read_body(response).await,
            Ok(response) => Err(error_from(response).await),
            Err(error) if error.is_timeout() && !error.is_connect() => Err(Error::DeadlineExceeded),
            Err(error) => {
                warn!(error = %error.without_url(), "a replica of model_api cannot be reached");
                Err(Error::ModelUnreachable)
            }
        };
        join_all(urls.into_iter().flatten().map(send)).await
    }

    fn request(
        &self,
        method: Method,
        mut url: Url,
        path: &[&str],
        payload: Option<Payload>,
        request_id: Option<HeaderValue>,
        timeout: Duration,
    ) -> RequestBuilder {
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let mut request = self.http[runtime::current_core()].request(method, url).timeout(timeout);
        if let Some(Payload { headers, bytes }) = payload {
            request = request.headers(headers).body(bytes);
        }
        match request_id {
            Some(id) => request.header("x-request-id", id),
            None => request,
        }
    }
}

/// All addresses of a replica's host name: an orchestrator may run several instances behind one name. Returns `url` itself if the
/// lookup fails; the request to it then reports the reason.
async fn resolve(url: Url) -> Vec<Url> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let addresses = lookup_host((host, url.port_or_known_default().unwrap_or(80))).await;
    let mut urls: Vec<Url> = addresses
        .into_iter()
        .flatten()
        .filter_map(|address| {
            let mut url = url.clone();
            url.set_ip_host(address.ip()).ok()?;
            Some(url)
        })
        .collect();
    urls.sort_unstable();
    urls.dedup();
    if urls.is_empty() { vec![url] } else { urls }
}

#[cfg(test)]
mod tests;
