//! Inline re-poll of a future that wakes itself.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Consecutive polls before other tasks get their turn.
const MAX_INLINE_POLLS: usize = 2;

const IDLE: u8 = 0;
const POLLING: u8 = 1;
const WOKEN: u8 = 2;

/// Re-polls the inner future inline if it woke itself during `poll`.
///
/// hyper does so for each request with a body, since the reader and the receiver of the body share a task. The
/// multi-threaded scheduler of Tokio would wake another worker thread for it.
pub struct InlineWake<F> {
    inner: Pin<Box<F>>,
    wake_state: Arc<WakeState>,
    waker: Waker,
}

struct WakeState {
    state: AtomicU8,
    task: AtomicWaker,
}

impl<F> InlineWake<F> {
    pub fn new(inner: F) -> Self {
        let wake_state = Arc::new(WakeState { state: AtomicU8::new(IDLE), task: AtomicWaker::new() });
        Self { inner: Box::pin(inner), waker: Waker::from(Arc::clone(&wake_state)), wake_state }
    }
}

impl<F: Future> Future for InlineWake<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { inner, wake_state, waker } = &mut *self;
        wake_state.task.register(context.waker());
        for _ in 0..MAX_INLINE_POLLS {
            wake_state.state.swap(POLLING, Ordering::AcqRel);
            let polled = inner.as_mut().poll(&mut Context::from_waker(waker));
            let is_idle = wake_state.state.compare_exchange(POLLING, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok();
            if polled.is_ready() || is_idle {
                return polled;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Wake for WakeState {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == IDLE {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use futures_util::future::pending;
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Future that wakes itself during the first `times` polls and is ready after them.
    fn self_waking(mut times: usize) -> impl Future<Output = ()> {
        poll_fn(move |context| {
            if times == 0 {
                return Poll::Ready(());
            }
            times -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// Polls `times` times. Returns the last result and the number of wake-ups of the task.
    fn polled<F: Future>(future: F, times: usize) -> (Poll<F::Output>, usize) {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut future = InlineWake::new(future);
        let mut last = Poll::Pending;
        for _ in 0..times {
            last = Pin::new(&mut future).poll(&mut Context::from_waker(&waker));
        }
        (last, count.0.load(Ordering::Relaxed))
    }

    #[test]
    fn self_wake_is_polled_inline_without_waking_the_task() {
        assert_eq!(polled(self_waking(1), 1), (Poll::Ready(()), 0));
    }

    #[test]
    fn endless_self_wake_yields_to_other_tasks() {
        assert_eq!(polled(self_waking(2), 1), (Poll::Pending, 1));
        assert_eq!(polled(self_waking(2), 2), (Poll::Ready(()), 1));
        assert_eq!(polled(self_waking(usize::MAX), 10), (Poll::Pending, 10));
    }

    #[test]
    fn idle_future_wakes_its_task_once() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut future = InlineWake::new(pending::<()>());
        for woken in 1..=2 {
            assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
            future.waker.wake_by_ref();
            future.waker.wake_by_ref();
            assert_eq!(count.0.load(Ordering::Relaxed), woken);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn wakes_from_other_threads_are_not_lost() {
        let (requests, mut received) = mpsc::channel::<oneshot::Sender<usize>>(1);
        let responder = tokio::spawn(InlineWake::new(async move {
            let mut number = 0;
            while let Some(reply) = received.recv().await {
                number += 1;
                let _ = reply.send(number);
            }
        }));
        let requester = InlineWake::new(async move {
            for number in 1..=10_000 {
                let (reply, response) = oneshot::channel();
                requests.send(reply).await.unwrap();
                assert_eq!(response.await, Ok(number));
            }
        });
        tokio::spawn(requester).await.unwrap();
        responder.await.unwrap();
    }
}
