use std::io;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// When a connection sends its next request.
#[derive(Clone, Debug)]
pub enum Pace {
    /// As soon as the last one has been answered.
    Closed,
    /// When a request arrives, if the connection is idle then, and otherwise later.
    Open(Receiver<Instant>),
}

impl Pace {
    /// Waits, and returns the time at which the request should have been sent, from which its latency is counted.
    pub async fn next(&self) -> Option<Instant> {
        match self {
            Self::Closed => Some(Instant::now()),
            Self::Open(arrivals) => arrivals.recv().await.ok(),
        }
    }
}

/// Lets `rate` requests a second arrive, evenly, until `end`. Tokio's own timers know only milliseconds.
pub async fn arrive(rate: f64, end: Instant, arrivals: Sender<Instant>) -> io::Result<()> {
    #[allow(
        deprecated,
        reason = "what replaces it is unsafe to call, and an OwnedFd keeps the promise that it requires"
    )]
    let timer = AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?)?;
    let begin = Instant::now();
    for number in 0_u64.. {
        let due = begin + Duration::from_secs_f64(number as f64 / rate);
        if due >= end {
            break;
        }
        let wait = due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            let once = Itimerspec { it_interval: Timespec::default(), it_value: timespec(wait) };
            timerfd_settime(timer.get_ref(), TimerfdTimerFlags::empty(), &once)?;
            // Setting it anew makes it unreadable again: nothing has to be read.
            timer.readable().await?.clear_ready();
        } else if number % 16 == 0 {
            // Behind schedule: the server must still get CPU time.
            tokio::task::yield_now().await;
        }
        if arrivals.send(due).await.is_err() {
            break;
        }
    }
    arrivals.close();
    Ok(())
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().cast_signed(), tv_nsec: duration.subsec_nanos().into() }
}
