//! Idle timeouts of connections, separate from the header timeout.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

use super::connection_activity::ConnectionActivity;

/// Checks per idle timeout of an HTTP/2 connection. The timeout fires at most one check late.
const IDLE_CHECKS: u32 = 4;

/// Timer for hyper's HTTP/1 header timeout that distinguishes idle connections from slow headers.
///
/// hyper starts its timer as soon as the last response is sent, so that one timeout would bound both the time between
/// requests and the time that a header takes. Here the timeout is `idle` until the first byte of the next header
/// arrives, and `header` from then on. The first header of a connection has started when hyper starts.
#[derive(Debug)]
pub(crate) struct HeaderTimer {
    activity: Arc<ConnectionActivity>,
    idle: Duration,
    header: Duration,
    is_first: AtomicBool,
}

impl HeaderTimer {
    /// Timer of one connection. `header` is the header timeout that hyper is configured with.
    pub fn new(activity: Arc<ConnectionActivity>, idle: Duration, header: Duration) -> Self {
        Self { activity, idle, header, is_first: AtomicBool::new(true) }
    }
}

impl Timer for HeaderTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    /// hyper's `deadline` is now plus `header`.
    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let is_first = self.is_first.swap(false, Ordering::Relaxed);
        let now = deadline.checked_sub(self.header).unwrap_or_else(Instant::now);
        let deadline = if is_first { deadline } else { now + self.idle };
        Box::pin(HeaderSleep {
            sleep: tokio::time::sleep_until(deadline.into()),
            activity: Arc::clone(&self.activity),
            seen: (!is_first).then(|| self.activity.reads()),
            header: self.header,
        })
    }
}

pin_project_lite::pin_project! {
    struct HeaderSleep {
        #[pin]
        sleep: tokio::time::Sleep,
        activity: Arc<ConnectionActivity>,
        // Number of reads at the start of the wait. `None` once a byte of the header has arrived.
        seen: Option<u64>,
        header: Duration,
    }
}

impl Future for HeaderSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if this.seen.is_some_and(|seen| seen != this.activity.reads()) {
            *this.seen = None;
            this.sleep.as_mut().reset(tokio::time::Instant::now() + *this.header);
        }
        this.sleep.poll(cx)
    }
}

impl Sleep for HeaderSleep {}

/// Completes once no request has arrived for `timeout`, at most a quarter of it late.
pub(crate) async fn wait_until_idle(activity: &ConnectionActivity, timeout: Duration) {
    let (mut seen, mut idle_checks) = (activity.requests(), 0);
    while idle_checks < IDLE_CHECKS {
        tokio::time::sleep(timeout / IDLE_CHECKS).await;
        let count = activity.requests();
        idle_checks = if count == seen { idle_checks + 1 } else { 0 };
        seen = count;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    const IDLE: Duration = Duration::from_secs(75);
    const HEADER: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    fn start(timer: &HeaderTimer) -> Pin<Box<dyn Sleep>> {
        timer.sleep_until(tokio::time::Instant::now().into_std() + HEADER)
    }

    /// Timer of a connection that has received its first request.
    fn start_second(activity: &Arc<ConnectionActivity>) -> Pin<Box<dyn Sleep>> {
        let timer = HeaderTimer::new(Arc::clone(activity), IDLE, HEADER);
        drop(start(&timer));
        start(&timer)
    }

    async fn ends_within(sleep: &mut Pin<Box<dyn Sleep>>, duration: Duration) -> bool {
        timeout(duration, sleep).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn first_header_has_the_header_timeout() {
        let mut sleep = start(&HeaderTimer::new(Arc::default(), IDLE, HEADER));
        assert!(!ends_within(&mut sleep, HEADER.saturating_sub(SECOND)).await);
        assert!(ends_within(&mut sleep, 2 * SECOND).await);
    }

    #[tokio::test(start_paused = true)]
    async fn connection_between_requests_has_the_idle_timeout() {
        let mut sleep = start_second(&Arc::default());
        assert!(!ends_within(&mut sleep, IDLE.saturating_sub(SECOND)).await);
        assert!(ends_within(&mut sleep, 2 * SECOND).await);
    }

    #[tokio::test(start_paused = true)]
    async fn first_byte_of_a_header_starts_the_header_timeout_and_later_ones_do_not_extend_it() {
        let activity = Arc::default();
        let mut sleep = start_second(&activity);
        assert!(!ends_within(&mut sleep, IDLE.saturating_sub(SECOND)).await);
        for _ in 0..9 {
            activity.add_read();
            assert!(!ends_within(&mut sleep, SECOND).await);
        }
        activity.add_read();
        assert!(ends_within(&mut sleep, 2 * SECOND).await);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_postpone_the_idle_timeout() {
        let activity = Arc::<ConnectionActivity>::default();
        let idle = tokio::spawn({
            let activity = Arc::clone(&activity);
            async move { wait_until_idle(&activity, IDLE).await }
        });
        for _ in 0..10 {
            advance(IDLE / 2).await;
            drop(activity.start_request());
        }
        tokio::task::yield_now().await;
        assert!(!idle.is_finished());
        timeout(IDLE * 3 / 2, idle).await.unwrap().unwrap();
    }
}
