use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use contract::{ModelList, Prediction};
use http::{HeaderValue, StatusCode, header};
use reqwest::{Client, Method, Response, Url};
use service::middleware::request_id;
use service::problem::Problem;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tracing::warn;

use crate::error::Error;
use crate::settings::Settings;

/// A replica that is there accepts a connection long before this.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// A list of models needs no inference.
const LIST_TIMEOUT: Duration = Duration::from_secs(2);

/// Before the second try, so that a replica that is just being replaced has a moment.
const PAUSE: Duration = Duration::from_millis(100);

/// The bodies of a prediction and of a picture are far below; a larger one is not from our `model_api`.
const MAX_ANSWER: u64 = 16 << 20;

/// Calls `model_api`. Clones share connections, the order of replicas and the number of calls that may be under way.
#[derive(Clone)]
pub struct ModelClient {
    http: Client,
    replicas: Arc<[Url]>,
    next: Arc<AtomicUsize>,
    permits: Arc<Semaphore>,
    request_timeout: Duration,
}

/// A request's body and what it is.
#[derive(Clone, Debug)]
pub struct Payload {
    /// As the client sent it.
    pub bytes: Bytes,
    /// `application/octet-stream` for a picture: `model_api` tells formats by their first bytes.
    pub media_type: &'static str,
}

impl Payload {
    /// An encoded picture.
    pub fn image(bytes: Bytes) -> Self {
        Self { bytes, media_type: "application/octet-stream" }
    }

    /// The JSON of the old clients.
    pub fn json(bytes: Bytes) -> Self {
        Self { bytes, media_type: "application/json" }
    }
}

impl ModelClient {
    /// Connects when it is first used.
    pub fn new(settings: &Settings) -> reqwest::Result<Self> {
        let http = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // Shorter than model_api keeps an idle connection, so that no request meets one being closed.
            .pool_idle_timeout(settings.server.header_timeout / 2)
            // model_api is on a private network; a proxy of the environment leads elsewhere.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self {
            http,
            replicas: settings.model_api.clone().into(),
            next: Arc::default(),
            permits: Arc::new(Semaphore::new(settings.max_concurrent_requests)),
            request_timeout: settings.request_timeout,
        })
    }

    /// Which models there are.
    pub async fn models(&self) -> Result<ModelList, Error> {
        let response = self.ask(Method::GET, &["models"], None, LIST_TIMEOUT).await?;
        decode(&body(response).await?)
    }

    /// What `model` makes of `payload`.
    pub async fn predict(&self, model: &str, payload: Payload) -> Result<Prediction, Error> {
        let _permit = self.permits.try_acquire().map_err(|_| Error::Busy)?;
        let response = self.ask(Method::POST, &["predict", model], Some(payload), self.request_timeout).await?;
        decode(&body(response).await?)
    }

    /// The picture as `model` sees it, as a PNG.
    pub async fn input(&self, model: &str, payload: Payload) -> Result<Bytes, Error> {
        let _permit = self.permits.try_acquire().map_err(|_| Error::Busy)?;
        body(self.ask(Method::POST, &["input", model], Some(payload), self.request_timeout).await?).await
    }

    /// Asks one replica, and the others (or the only one again) when the first is gone. Asking twice is harmless: a
    /// model keeps nothing of a question.
    async fn ask(
        &self,
        method: Method,
        path: &[&str],
        payload: Option<Payload>,
        patience: Duration,
    ) -> Result<Response, Error> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        for attempt in 0..self.replicas.len().max(2) {
            if attempt > 0 {
                sleep(PAUSE).await;
            }
            let mut url = self.replicas[(first + attempt) % self.replicas.len()].clone();
            if let Ok(mut segments) = url.path_segments_mut() {
                segments.pop_if_empty().extend(path);
            }
            let mut request = self.http.request(method.clone(), url).timeout(patience);
            if let Some(Payload { bytes, media_type }) = payload.clone() {
                request = request.header(header::CONTENT_TYPE, HeaderValue::from_static(media_type)).body(bytes);
            }
            if let Some(id) = request_id() {
                request = request.header("x-request-id", id);
            }
            match request.send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => return Err(refusal(response).await),
                Err(error) if error.is_timeout() && !error.is_connect() => return Err(Error::Deadline),
                Err(error) => warn!(error = %error.without_url(), attempt, "model_api cannot be reached"),
            }
        }
        Err(Error::ModelUnreachable)
    }
}

/// What `model_api` says is meant for the caller; anything else that answers in its place is not.
async fn refusal(response: Response) -> Error {
    let status = response.status();
    match body(response).await.and_then(|body| decode::<Problem>(&body)) {
        Ok(problem) => Error::Model(problem),
        Err(_) if status == StatusCode::SERVICE_UNAVAILABLE => Error::Busy,
        Err(error) => error,
    }
}

async fn body(response: Response) -> Result<Bytes, Error> {
    if response.content_length().is_some_and(|length| length > MAX_ANSWER) {
        warn!(length = response.content_length(), "model_api's answer is too long to be one");
        return Err(Error::Internal);
    }
    response.bytes().await.map_err(|error| if error.is_timeout() { Error::Deadline } else { Error::ModelUnreachable })
}

fn decode<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| {
        warn!(%error, "model_api's answer is not what the contract says");
        Error::Internal
    })
}
