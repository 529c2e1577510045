use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

use super::connection_activity::ConnectionActivity;

/// How many steps the idle time of an HTTP/2 connection is measured in: it ends at most one step late.
const IDLE_CHECKS: u32 = 4;

/// Timer for hyper's HTTP/1 header timeout that tells an idle connection from a slow one.
///
/// hyper starts its timer as soon as the last response has gone, so that one timeout would bound both the time between two
/// requests and the time that a header takes. Here the first is `idle`, and as soon as a byte of the next header has arrived,
/// the second, `header`, takes its place. The first header of a connection has begun when hyper starts.
#[derive(Debug)]
pub(crate) struct HeaderTimer {
    activity: Arc<ConnectionActivity>,
    idle: Duration,
    header: Duration,
    is_first: AtomicBool,
}

impl HeaderTimer {
    /// Of one connection; `header` is what hyper has as its header timeout.
    pub fn new(activity: Arc<ConnectionActivity>, idle: Duration, header: Duration) -> Self {
        Self { activity, idle, header, is_first: AtomicBool::new(true) }
    }
}

impl Timer for HeaderTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    /// `deadline` is hyper's: `header` from now.
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
        // Reads when the wait began; none once a byte of the header has arrived.
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

/// Returns when no request has arrived for `timeout`, at most a quarter of it later.
pub(crate) async fn wait_until_idle(activity: &ConnectionActivity, timeout: Duration) {
    let (mut seen, mut quiet) = (activity.requests(), 0);
    while quiet < IDLE_CHECKS {
        tokio::time::sleep(timeout / IDLE_CHECKS).await;
        let count = activity.requests();
        quiet = if count == seen { quiet + 1 } else { 0 };
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

    /// Of a connection that has had its first request.
    fn start_second(activity: &Arc<ConnectionActivity>) -> Pin<Box<dyn Sleep>> {
        let timer = HeaderTimer::new(Arc::clone(activity), IDLE, HEADER);
        drop(start(&timer));
        start(&timer)
    }

    async fn ends_within(sleep: &mut Pin<Box<dyn Sleep>>, duration: Duration) -> bool {
        timeout(duration, sleep).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_header_has_the_header_timeout() {
        let mut sleep = start(&HeaderTimer::new(Arc::default(), IDLE, HEADER));
        assert!(!ends_within(&mut sleep, HEADER.saturating_sub(SECOND)).await);
        assert!(ends_within(&mut sleep, 2 * SECOND).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_between_two_requests_has_the_idle_timeout() {
        let mut sleep = start_second(&Arc::default());
        assert!(!ends_within(&mut sleep, IDLE.saturating_sub(SECOND)).await);
        assert!(ends_within(&mut sleep, 2 * SECOND).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_byte_of_a_header_starts_the_header_timeout_and_further_ones_do_not_prolong_it() {
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
    async fn requests_put_the_end_off_and_silence_brings_it() {
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
