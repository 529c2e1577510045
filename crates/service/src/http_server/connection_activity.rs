//! Activity of a connection: requests in flight, idle time and eviction.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::Router;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Notify;

use crate::limits::response_body::GuardedBody;
use crate::peer::Peer;

/// Epoch of the timestamps in [`ConnectionActivity`].
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Activity of one connection. Its own task writes it; the connection limit reads it from other threads.
#[derive(Debug)]
pub(crate) struct ConnectionActivity {
    peer: Peer,
    /// Number of reads that returned bytes. Only the connection's task increments it, so that a relaxed store suffices.
    reads: AtomicU64,
    /// Number of requests received.
    requests: AtomicU64,
    /// Requests whose response has not been completely handed to the socket.
    in_flight: AtomicUsize,
    /// Whether response bytes wait for the client to read them.
    is_writing: AtomicBool,
    /// Time at which the connection became idle, in milliseconds since [`EPOCH`].
    idle_since: AtomicU64,
    is_evicted: AtomicBool,
    evicted: Notify,
}

impl ConnectionActivity {
    /// Activity of a connection that was just accepted.
    pub fn new(peer: Peer) -> Self {
        Self {
            peer,
            reads: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            is_writing: AtomicBool::new(false),
            idle_since: AtomicU64::new(millis(Instant::now())),
            is_evicted: AtomicBool::new(false),
            evicted: Notify::new(),
        }
    }

    pub fn peer(&self) -> Peer {
        self.peer
    }

    pub fn add_read(&self) {
        self.reads.store(self.reads() + 1, Ordering::Relaxed);
    }

    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Records whether response bytes wait for the client to read them.
    pub fn set_writing(&self, is_writing: bool) {
        self.is_writing.store(is_writing, Ordering::Relaxed);
    }

    /// Counts a request as in flight until the returned value is dropped.
    pub fn start_request(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Whether no request is in flight and no response waits to be read. A new connection is idle, and so is one in the
    /// middle of a request header.
    pub fn is_idle(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0 && !self.is_writing.load(Ordering::Relaxed)
    }

    /// Idle time, or `None` while the connection is busy.
    pub fn idle_for(&self, now: Instant) -> Option<Duration> {
        let since = self.idle_since.load(Ordering::Relaxed);
        self.is_idle().then(|| Duration::from_millis(millis(now).saturating_sub(since)))
    }

    /// Requests that the connection's task close the connection.
    pub fn evict(&self) {
        self.is_evicted.store(true, Ordering::Relaxed);
        self.evicted.notify_one();
    }

    pub fn is_evicted(&self) -> bool {
        self.is_evicted.load(Ordering::Relaxed)
    }

    /// Completes once [`ConnectionActivity::evict`] is called.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

fn millis(now: Instant) -> u64 {
    now.saturating_duration_since(*EPOCH).as_millis() as u64
}

/// A received request whose response is not complete.
pub(crate) struct InFlight(Arc<ConnectionActivity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.idle_since.store(millis(Instant::now()), Ordering::Relaxed);
        }
    }
}

/// Service of one connection: tracks requests in flight, and adds the [`Peer`] to each request.
#[derive(Clone)]
pub(crate) struct TrackedService {
    routes: TowerToHyperService<Router>,
    activity: Arc<ConnectionActivity>,
}

impl TrackedService {
    pub fn new(routes: Router, activity: Arc<ConnectionActivity>) -> Self {
        Self { routes: TowerToHyperService::new(routes), activity }
    }
}

impl Service<Request<Incoming>> for TrackedService {
    type Response = Response<TrackedBody>;
    type Error = Infallible;
    type Future = TrackedResponse;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.activity.peer());
        TrackedResponse { in_flight: Some(self.activity.start_request()), response: self.routes.call(request) }
    }
}

pin_project_lite::pin_project! {
    /// Future of a response.
    pub(crate) struct TrackedResponse {
        #[pin]
        response: <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future,
        in_flight: Option<InFlight>,
    }
}

impl Future for TrackedResponse {
    type Output = Result<Response<TrackedBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(response) = ready!(this.response.poll(cx));
        let in_flight = this.in_flight.take();
        Poll::Ready(Ok(response.map(|body| GuardedBody::new(body, in_flight))))
    }
}

/// Response body. Its request is in flight until the body is dropped.
pub(crate) type TrackedBody = GuardedBody<Option<InFlight>>;

#[cfg(test)]
impl Default for ConnectionActivity {
    fn default() -> Self {
        Self::new(Peer(std::net::Ipv4Addr::LOCALHOST.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_is_busy_until_its_last_response_is_complete_and_read() {
        let activity = Arc::new(ConnectionActivity::default());
        let later = Instant::now() + Duration::from_secs(3);
        assert!(activity.idle_for(later).unwrap() >= Duration::from_secs(3));
        let (first, second) = (activity.start_request(), activity.start_request());
        drop(first);
        assert_eq!(activity.idle_for(later), None);
        drop(second);
        assert!(activity.is_idle());
        activity.set_writing(true);
        assert_eq!(activity.idle_for(later), None);
        activity.set_writing(false);
        assert!(activity.idle_for(later).is_some());
        assert_eq!(activity.requests(), 2);
    }
}
