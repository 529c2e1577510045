use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use contract::ModelList;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use open_inference::{Inference, ModelIndex, ModelState, OVERLOADED, Tensor, client};
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use service::memory_budget::{MemoryBudget, Reservation};
use service::problem::Problem;
use service::request_id::current_request_id;
use service::runtime;
use service::shared_secret::SharedSecret;
use tokio::net::lookup_host;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::error::Error;
use crate::settings::Settings;
use crate::steering::{BACKGROUND, PRIORITY};
use crate::workbench::Workbench;

/// A replica that is there accepts a connection long before this.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// A list of models needs no inference.
const LIST_TIMEOUT: Duration = Duration::from_secs(2);

/// Reading and warming up a large model takes minutes.
const LOAD_TIMEOUT: Duration = Duration::from_mins(10);

/// Before another try, so that a replica that is just being replaced has a moment.
const PAUSE: Duration = Duration::from_millis(100);

/// The largest answer that is taken: four times what a request may be by default, since a picture of a few kilobytes can
/// become large tensors. It is held in memory, so there is an end to it.
const MAX_ANSWER: usize = 256 << 20;

/// Background requests have permits of their own for one of so many of `MAX_CONCURRENT_REQUESTS`, beside those that all share.
const BACKGROUND_SHARE: usize = 16;

/// Calls `model_api`. Clones share connections, the order of replicas and the number of calls that may be under way.
#[derive(Clone)]
pub struct ModelClient {
    /// With connections of its own for each core.
    http: Arc<[Client]>,
    replicas: Arc<[Url]>,
    /// What requests about the repository carry: the secret, where there is one.
    credentials: HeaderMap,
    next: Arc<AtomicUsize>,
    permits: Arc<Semaphore>,
    /// For background requests while interactive ones hold all permits: those alone must not stop jobs.
    background_permits: Arc<Semaphore>,
    request_timeout: Duration,
    workbench: Workbench,
    /// For requests and responses on their way.
    budget: MemoryBudget,
}

/// A question's way to its model.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The model.
    pub model: &'a str,
    /// `None` for its default version.
    pub version: Option<&'a str>,
    /// What it is called in the logs of both services.
    pub request_id: Option<HeaderValue>,
    /// How long the answer may take.
    pub patience: Duration,
    /// Whether people's questions go first.
    pub in_background: bool,
}

/// A request's body, and the headers that say what it is.
#[derive(Clone, Debug)]
struct Payload {
    headers: HeaderMap,
    bytes: Bytes,
}

impl ModelClient {
    /// Connects when it is first used.
    pub fn new(settings: &Settings, workbench: Workbench, budget: MemoryBudget) -> reqwest::Result<Self> {
        let client = |_| {
            Client::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                // Shorter than model_api keeps an idle connection, so that no request meets one being closed.
                .pool_idle_timeout(settings.server.idle_timeout / 2)
                // model_api is on a private network; a proxy of the environment leads elsewhere.
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .build()
        };
        Ok(Self {
            http: (0..runtime::core_count()).map(client).collect::<reqwest::Result<_>>()?,
            replicas: settings.model_api.clone().into(),
            credentials: settings.model_api_secret.iter().map(SharedSecret::header).collect(),
            next: Arc::default(),
            permits: Arc::new(Semaphore::new(settings.max_concurrent_requests)),
            background_permits: Arc::new(Semaphore::new(settings.max_concurrent_requests.div_ceil(BACKGROUND_SHARE))),
            request_timeout: settings.request_timeout,
            workbench,
            budget,
        })
    }

    /// Which models there are.
    pub async fn models(&self) -> Result<ModelList, Error> {
        let response = self.ask(Method::GET, &["models"], None, current_request_id(), LIST_TIMEOUT).await?;
        decode(&body(response).await?)
    }

    /// A permit for one request to `model_api`: one of `MAX_CONCURRENT_REQUESTS`. [`Error::Busy`] where none is free.
    pub fn permit(&self, in_background: bool) -> Result<OwnedSemaphorePermit, Error> {
        let acquire = |permits: &Arc<Semaphore>| Arc::clone(permits).try_acquire_owned().map_err(|_| Error::Busy);
        acquire(&self.permits).or_else(|busy| if in_background { acquire(&self.background_permits) } else { Err(busy) })
    }

    /// Reserves memory for what travels to a model or from it.
    pub fn reserve(&self, bytes: usize) -> Result<Reservation, Error> {
        let mut memory = self.budget.shared_reservation();
        memory.reserve(bytes)?;
        Ok(memory)
    }

    /// How long an answer may take.
    pub fn patience(&self) -> Duration {
        self.request_timeout
    }

    /// What the model makes of `inputs`, for whoever holds a permit.
    pub async fn infer(&self, call: Call<'_>, inputs: Vec<Tensor>) -> Result<Inference, Error> {
        let Call { model, version, request_id, patience, in_background } = call;
        let bytes = inputs.iter().map(|tensor| tensor.data.len()).sum();
        // For the request that is made of them, and for the response.
        let mut memory = self.reserve(bytes)?;
        let (mut headers, bytes) = self.workbench.run(bytes, move || client::encode_request(&inputs)).await?;
        if in_background {
            headers.insert(PRIORITY, HeaderValue::from_static(BACKGROUND));
        }
        let path: Vec<&str> = match version {
            Some(version) => vec!["v2", "models", model, "versions", version, "infer"],
            None => vec!["v2", "models", model, "infer"],
        };
        let payload = Payload { headers, bytes };
        let asked = self.ask(Method::POST, &path, Some(payload), request_id, patience).await;
        let mut response = asked.map_err(|error| overloaded(error, model))?;
        let headers = std::mem::take(response.headers_mut());
        let body = reserved_body(response, &mut memory).await?;
        client::decode_response(&headers, body).map_err(|error| not_the_contract(&error))
    }

    /// The picture as `model` sees it, as a PNG.
    pub async fn input(&self, model: &str, image: Bytes) -> Result<Bytes, Error> {
        let _permit = self.permit(false)?;
        // model_api tells formats by their first bytes.
        let octets = (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let payload = Payload { headers: [octets].into_iter().collect(), bytes: image };
        let response = self
            .ask(Method::POST, &["input", model], Some(payload), current_request_id(), self.request_timeout)
            .await?;
        body(response).await
    }

    /// Every version in the repository. Where replicas differ, the one that does worst is told of.
    pub async fn index(&self) -> Result<Vec<ModelIndex>, Error> {
        let lists = self.tell_all(&["v2", "repository", "index"], LIST_TIMEOUT).await;
        let mut known: Vec<ModelIndex> = Vec::new();
        let mut unreachable = None;
        for list in lists {
            match list.and_then(|list| decode::<Vec<ModelIndex>>(&list)) {
                Ok(list) => list.into_iter().for_each(|entry| merge(&mut known, entry)),
                Err(error) => unreachable = Some(error),
            }
        }
        known.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        match unreachable {
            Some(error) if known.is_empty() => Err(error),
            _ => Ok(known),
        }
    }

    /// Has every replica load `model`.
    pub async fn load(&self, model: &str) -> Result<(), Error> {
        all_did(self.tell_all(&["v2", "repository", "models", model, "load"], LOAD_TIMEOUT).await)
    }

    /// Has every replica unload `model`.
    pub async fn unload(&self, model: &str) -> Result<(), Error> {
        all_did(self.tell_all(&["v2", "repository", "models", model, "unload"], LOAD_TIMEOUT).await)
    }

    /// Posts to every replica at the same time.
    async fn tell_all(&self, path: &[&str], patience: Duration) -> Vec<Result<Bytes, Error>> {
        let replicas = join_all(self.replicas.iter().cloned().map(addresses)).await;
        let tell = async |replica: Url| match self
            .request(Method::POST, replica, path, None, current_request_id(), patience)
            .headers(self.credentials.clone())
            .send()
            .await
        {
            Ok(response) if response.status().is_success() => body(response).await,
            Ok(response) => Err(refusal(response).await),
            Err(error) if error.is_timeout() && !error.is_connect() => Err(Error::Deadline),
            Err(error) => {
                warn!(error = %error.without_url(), "a replica of model_api cannot be reached");
                Err(Error::ModelUnreachable)
            }
        };
        join_all(replicas.into_iter().flatten().map(tell)).await
    }

    /// Sends a request to one replica, within `patience` for all tries together. A replica to which there is no connection has
    /// received nothing, so the next one is tried, or the only one once more. A connection that breaks before there is a
    /// response may have been closed while it was idle, so the request is sent once more; a model keeps nothing of it. It is
    /// never sent a third time: a request that takes a replica down must not visit all of them.
    async fn ask(
        &self,
        method: Method,
        path: &[&str],
        payload: Option<Payload>,
        request_id: Option<HeaderValue>,
        patience: Duration,
    ) -> Result<Response, Error> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let deadline = Instant::now() + patience;
        let mut was_sent = false;
        for attempt in 0..self.replicas.len().max(2) {
            if attempt > 0 {
                sleep(PAUSE).await;
            }
            let patience = deadline.saturating_duration_since(Instant::now());
            if patience.is_zero() {
                return Err(Error::Deadline);
            }
            let replica = self.replicas[(first + attempt) % self.replicas.len()].clone();
            let request = self.request(method.clone(), replica, path, payload.clone(), request_id.clone(), patience);
            match request.send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => return Err(refusal(response).await),
                Err(error) if error.is_timeout() && !error.is_connect() => return Err(Error::Deadline),
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

    fn request(
        &self,
        method: Method,
        mut url: Url,
        path: &[&str],
        payload: Option<Payload>,
        request_id: Option<HeaderValue>,
        patience: Duration,
    ) -> RequestBuilder {
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let mut request = self.http[runtime::current_core()].request(method, url).timeout(patience);
        if let Some(Payload { headers, bytes }) = payload {
            request = request.headers(headers).body(bytes);
        }
        match request_id {
            Some(id) => request.header("x-request-id", id),
            None => request,
        }
    }
}

/// Every address behind a replica's name: where an orchestrator runs several, one name stands for all of them. The name
/// itself when it cannot be looked up, so that trying it gives the reason.
async fn addresses(replica: Url) -> Vec<Url> {
    let host = replica.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let found = lookup_host((host, replica.port_or_known_default().unwrap_or(80))).await;
    let mut urls: Vec<Url> = found
        .into_iter()
        .flatten()
        .filter_map(|address| {
            let mut url = replica.clone();
            url.set_ip_host(address.ip()).ok()?;
            Some(url)
        })
        .collect();
    urls.sort_unstable();
    urls.dedup();
    if urls.is_empty() { vec![replica] } else { urls }
}

/// The first that failed; all others have done it.
fn all_did(answers: Vec<Result<Bytes, Error>>) -> Result<(), Error> {
    let replicas = answers.len();
    let Some((number, reason)) =
        answers.into_iter().enumerate().find_map(|(number, answer)| answer.err().map(|error| (number, error)))
    else {
        return Ok(());
    };
    if replicas == 1 {
        return Err(reason);
    }
    Err(Error::Replica { failed: number + 1, replicas, reason: Box::new(reason) })
}

/// Puts `entry` to those `known`, or in the place of the same version that does better elsewhere.
fn merge(known: &mut Vec<ModelIndex>, entry: ModelIndex) {
    let health = |entry: &ModelIndex| match entry.state {
        ModelState::Unavailable => 0,
        ModelState::Unloading => 1,
        ModelState::Loading => 2,
        ModelState::Ready => 3 + u8::from(entry.reason.is_empty()),
    };
    match known.iter_mut().find(|other| other.name == entry.name && other.version == entry.version) {
        Some(other) if health(&entry) < health(other) => *other = entry,
        Some(_) => {}
        None => known.push(entry),
    }
}

/// A refusal for load, in the words of this service: what `model_api` says of its queue is true of one moment, and this error
/// goes to other callers too.
fn overloaded(error: Error, model: &str) -> Error {
    match error {
        Error::Model(open_inference::Error { is_overload: true, retry_after_s, .. }) => {
            Error::Overloaded { model: model.to_owned(), retry_after_s }
        }
        error => error,
    }
}

/// What `model_api` says is meant for the caller; anything else that answers in its place is not.
async fn refusal(response: Response) -> Error {
    /// The protocol's routes have their own shape.
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Words {
        Protocol { error: String },
        Problem(Problem),
    }
    let status = response.status();
    let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let is_overload = response.headers().contains_key(OVERLOADED);
    let words = body(response).await.and_then(|body| decode::<Words>(&body));
    match words {
        Ok(Words::Protocol { error: words } | Words::Problem(Problem { detail: words, .. })) => {
            let error = open_inference::Error::new(status, words);
            let retry_after_s = retry_after.unwrap_or(error.retry_after_s);
            Error::Model(open_inference::Error { retry_after_s, is_overload, ..error })
        }
        Err(_) if status == StatusCode::SERVICE_UNAVAILABLE => Error::Busy,
        Err(error) => error,
    }
}

/// [`body`] with its length reserved in `memory` before it is read.
async fn reserved_body(response: Response, memory: &mut Reservation) -> Result<Bytes, Error> {
    let length = response.content_length().map_or(0, |length| length.min(MAX_ANSWER as u64) as usize);
    memory.reserve(length)?;
    body(response).await
}

async fn body(mut response: Response) -> Result<Bytes, Error> {
    let too_long = || {
        warn!("model_api's answer is too long to be one");
        Error::Internal
    };
    let broken = |error: reqwest::Error| if error.is_timeout() { Error::Deadline } else { Error::ModelUnreachable };
    if response.content_length().is_some_and(|length| length > MAX_ANSWER as u64) {
        return Err(too_long());
    }
    let Some(first) = response.chunk().await.map_err(broken)? else { return Ok(Bytes::new()) };
    let mut bytes = BytesMut::from(first);
    bytes.reserve(response.content_length().map_or(0, |length| length as usize).saturating_sub(bytes.len()));
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if bytes.len() + chunk.len() > MAX_ANSWER {
            return Err(too_long());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

fn decode<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| not_the_contract(&error))
}

fn not_the_contract(error: &dyn std::error::Error) -> Error {
    warn!(%error, "model_api's answer is not what the contract says");
    Error::Internal
}

#[cfg(test)]
mod tests;
