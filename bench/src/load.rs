use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::arguments::{Arguments, CacheMode};
use crate::check::class_of;
use crate::http1::Answer;
use crate::load_request::LoadRequest;
use crate::pace::{Pace, arrive};
use crate::tally::{Report, Tally};
use crate::{grpc, http1};

/// One response in this number is read and verified, per connection.
const READ_EVERY: u64 = 64;

/// Wait for outstanding responses after the end.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(40);

/// Maximum number of arrivals that wait for an idle connection.
const BACKLOG: usize = 1 << 20;

/// What all connections share.
struct Shared {
    arguments: Arguments,
    pace: Pace,
    end: Instant,
    next: AtomicU64,
    tally: Mutex<Tally>,
}

enum Connection {
    Http1(http1::Connection),
    Grpc(grpc::Connection),
}

/// Sends requests and counts responses.
pub async fn run(arguments: Arguments) -> anyhow::Result<Report> {
    let request = LoadRequest::new(&arguments)?;
    let begin = Instant::now() + if arguments.requests.is_some() { Duration::ZERO } else { arguments.warm_up };
    let end = begin + if arguments.requests.is_some() { Duration::from_hours(1) } else { arguments.seconds };
    let (pace, arrivals) = match arguments.rate {
        None => (Pace::Closed, None),
        Some(rate) => {
            let (sender, arrivals) = async_channel::bounded(BACKLOG);
            tokio::spawn(arrive(rate, end, sender));
            (Pace::Open(arrivals.clone()), Some(arrivals))
        }
    };
    let tally = Mutex::new(Tally::new(begin, end, arguments.series));
    let shared = Arc::new(Shared { arguments, pace, end, next: AtomicU64::new(0), tally });
    let mut connections = JoinSet::new();
    for number in 0..shared.arguments.connections {
        connections.spawn(send_requests(Arc::clone(&shared), request.clone(), number as u64));
    }
    let remaining = end.saturating_duration_since(Instant::now()) + RESPONSE_TIMEOUT;
    let all_ended = timeout(remaining, async { while connections.join_next().await.is_some() {} }).await;
    if all_ended.is_err() {
        let waiting = connections.len();
        (0..waiting).for_each(|_| shared.tally().fail(format!("no answer within {RESPONSE_TIMEOUT:?}")));
    }
    let took = Instant::now().min(end) - begin;
    let requests = shared.next.load(Ordering::Relaxed);
    let unsent = arrivals.map_or(0, |arrivals| arrivals.len() as u64);
    Ok(shared.tally().report(took, requests, unsent))
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the next request, unless enough have been sent.
    fn next_number(&self, random: &mut u64) -> Option<u64> {
        let Arguments { requests, first, distinct, cache, .. } = self.arguments;
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        if requests.is_some_and(|requests| count >= requests) {
            self.next.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        if cache == CacheMode::Hit { Some(first + next_random(random) % distinct) } else { Some(first + count) }
    }
}

async fn send_requests(shared: Arc<Shared>, mut request: LoadRequest, number: u64) {
    let mut random = number + 1;
    let mut connection = None;
    let mut sent_requests = 0_u64;
    while let Some(sent) = shared.pace.next().await {
        // Requests that could not be sent in time are counted as unsent.
        if Instant::now() >= shared.end {
            break;
        }
        let Some(number) = shared.next_number(&mut random) else { break };
        request.set_number(number);
        let answered = match &mut connection {
            Some(connection) => {
                send(connection, &shared, &request, sent, sent_requests.is_multiple_of(READ_EVERY)).await
            }
            None => match Connection::open(&shared.arguments.address, &request).await {
                Ok(new) => {
                    let connection = connection.insert(new);
                    send(connection, &shared, &request, sent, true).await
                }
                Err(error) => Err(error),
            },
        };
        sent_requests += 1;
        match answered {
            Ok(true) => {}
            Ok(false) => connection = None,
            Err(error) => {
                shared.tally().fail(error.to_string());
                connection = None;
                sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Whether the connection can be used again.
async fn send(
    connection: &mut Connection,
    shared: &Shared,
    request: &LoadRequest,
    sent: Instant,
    reads: bool,
) -> io::Result<bool> {
    let answer = connection.exchange(request).await?;
    let mut tally = shared.tally();
    tally.answer(sent, answer.status);
    if reads && answer.status == 200 {
        let class = class_of(shared.arguments.format, &answer);
        let right = shared.arguments.class.is_none_or(|right| class == Some(right));
        tally.check(right, is_hit(answer.cache_status));
    }
    Ok(!answer.closes)
}

fn is_hit(cache_status: &[u8]) -> bool {
    cache_status.split(|byte| *byte == b';').any(|word| word.trim_ascii() == b"hit")
}

impl Connection {
    async fn open(address: &str, request: &LoadRequest) -> io::Result<Self> {
        Ok(match request.call() {
            None => Self::Http1(http1::Connection::open(address).await?),
            Some(_) => Self::Grpc(grpc::Connection::open(address).await?),
        })
    }

    async fn exchange(&mut self, request: &LoadRequest) -> io::Result<Answer<'_>> {
        match (self, request.call()) {
            (Self::Grpc(connection), Some(call)) => connection.exchange(call, request.bytes()).await,
            (Self::Http1(connection), _) => connection.exchange(request.bytes()).await,
            (Self::Grpc(_), None) => Err(io::Error::other("a request without a call")),
        }
    }
}

/// Xorshift: random enough to choose a request.
fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
