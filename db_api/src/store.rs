use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::{ConnectionManagerConfig, PubSub};
use redis::{Client, FromRedisValue, RedisError, cmd};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::connections::Connections;
use crate::entry::{Entry, MAX_STORED, to_redis};
use crate::keys::{AnswerKey, FORGET, PROBE, answers_of};
use crate::metrics::MemoryMetrics;

/// So many failures in a row open the breaker.
const FAILURES_TO_OPEN: u32 = 3;

/// How often the prober asks whether Redis is there.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// What Redis said.
#[derive(Debug)]
pub enum Lookup {
    /// The answer.
    Hit(Arc<Entry>),
    /// It does not know, or what it had was no answer to this question.
    Miss,
    /// It did not say in time, or was not asked because the breaker is open.
    Unavailable,
}

/// Redis could not be reached, or not in time. Details are in the log.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the durable memory does not answer")]
pub struct Unavailable;

/// Redis with a deadline on every command, and a breaker so that a dead one does not cost the deadline every time.
///
/// The breaker is a count of failures in a row. A prober that asks every second is what closes it again, so that no
/// request of a user is ever spent on finding out. It also replaces the connections, which by themselves notice that the
/// other end is gone only when that end says so.
#[derive(Clone)]
pub struct RedisStore {
    client: Client,
    connections: Arc<Connections>,
    /// Told when the connections have been replaced: the subscription's is no better than the old one was.
    replaced: Arc<Notify>,
    deadline: Duration,
    ttl: Duration,
    failures: Arc<AtomicU32>,
    metrics: MemoryMetrics,
}

impl RedisStore {
    /// Does not connect: the service starts with Redis, after it, or without it.
    pub fn new(url: &str, deadline: Duration, ttl: Duration, metrics: MemoryMetrics) -> Result<Self, RedisError> {
        let client = Client::open(url)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(PROBE_EVERY))
            .set_response_timeout(Some(deadline))
            .set_number_of_retries(1);
        let connections = Arc::new(Connections::new(client.clone(), config)?);
        // Unavailable until the prober has seen it: the first request must not wait for a connection either.
        let failures = Arc::new(AtomicU32::new(FAILURES_TO_OPEN));
        metrics.breaker(true);
        Ok(Self { client, connections, replaced: Arc::default(), deadline, ttl, failures, metrics })
    }

    /// Whether the breaker is closed.
    pub fn is_available(&self) -> bool {
        self.failures.load(Ordering::Relaxed) < FAILURES_TO_OPEN
    }

    pub(crate) async fn get(&self, key: AnswerKey, model: &str) -> Lookup {
        // Of a value that is longer than any of ours, no more than shows that it is. An empty one is none.
        let mut get = cmd("GETRANGE");
        get.arg(key.redis_key(model)).arg(0).arg(MAX_STORED);
        match self.ask::<Vec<u8>>(&get).await {
            Err(Unavailable) => Lookup::Unavailable,
            Ok(bytes) if bytes.is_empty() => Lookup::Miss,
            Ok(bytes) => Entry::from_bytes(bytes, key).map_or_else(
                || {
                    self.metrics.error("corrupt");
                    warn!(%key, model, "a value in Redis is no answer to its key; computing it anew");
                    Lookup::Miss
                },
                |entry| Lookup::Hit(Arc::new(entry)),
            ),
        }
    }

    /// Best effort: an answer that was not remembered is computed again.
    pub(crate) async fn set(&self, key: AnswerKey, model: &str, form: &[u8]) {
        let Some(bytes) = to_redis(form, key) else { return };
        let mut set = cmd("SET");
        set.arg(key.redis_key(model)).arg(bytes).arg("EX").arg(self.ttl.as_secs().max(1));
        let _ = self.ask::<()>(&set).await;
    }

    /// Deletes every answer of `model`, tells the other replicas, and says how many there were.
    pub(crate) async fn forget(&self, model: &str) -> Result<u64, Unavailable> {
        let unlinked = self.unlink(model).await;
        // Also after half of it: what has gone from here must not live on near the others.
        let told = self.ask::<()>(cmd("PUBLISH").arg(FORGET).arg(model)).await;
        told.and(unlinked)
    }

    async fn unlink(&self, model: &str) -> Result<u64, Unavailable> {
        let mut unlinked = 0;
        let mut cursor = 0;
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(answers_of(model)).arg("COUNT").arg(1000);
            let (next, keys): (u64, Vec<String>) = self.ask(&scan).await?;
            if !keys.is_empty() {
                unlinked += self.ask::<u64>(cmd("UNLINK").arg(keys)).await?;
            }
            if next == 0 {
                return Ok(unlinked);
            }
            cursor = next;
        }
    }

    /// Asks for ever, once a second, whether Redis is there.
    pub async fn probe(self) {
        loop {
            let is_silent = !self.answers().await && !self.is_available();
            // Another thread's may be half open where the prober's is not.
            if (is_silent || self.connections.failures() >= FAILURES_TO_OPEN) && self.replace().await {
                self.answers().await;
            }
            sleep(PROBE_EVERY).await;
        }
    }

    async fn answers(&self) -> bool {
        self.command::<Option<Vec<u8>>>(cmd("GET").arg(PROBE)).await.is_ok()
    }

    /// Puts new connections in the place of some that may be half open, whose other end has gone without a word (a
    /// machine lost, a firewall's state dropped): to time-outs the manager does not react, and the kernel takes a
    /// quarter of an hour. Only once a new one stands, so that one which is slow to connect gets there as well.
    async fn replace(&self) -> bool {
        let Ok(Ok(())) = timeout(PROBE_EVERY, self.connections.replace()).await else { return false };
        self.replaced.notify_waiters();
        true
    }

    /// Calls `forget` for ever with what other replicas forget: a model's name, or `None` when messages may have been
    /// missed and everything held near must go.
    pub async fn listen(self, forget: impl Fn(Option<String>)) {
        loop {
            if let Ok(Ok(subscription)) = timeout(PROBE_EVERY, self.subscribe()).await {
                let mut replaced = pin!(self.replaced.notified());
                forget(None);
                let mut messages = subscription.into_on_message();
                loop {
                    let message = tokio::select! {
                        message = messages.next() => message,
                        () = &mut replaced => None,
                    };
                    let Some(message) = message else { break };
                    forget(message.get_payload().ok());
                }
            }
            sleep(PROBE_EVERY).await;
        }
    }

    async fn subscribe(&self) -> Result<PubSub, RedisError> {
        let mut subscription = self.client.get_async_pubsub().await?;
        subscription.subscribe(FORGET).await?;
        Ok(subscription)
    }

    async fn ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, Unavailable> {
        if self.is_available() { self.command(command).await } else { Err(Unavailable) }
    }

    async fn command<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, Unavailable> {
        let connection = self.connections.own();
        let (kind, error) = match timeout(self.deadline, command.query_async(&mut connection.manager.clone())).await {
            Ok(Ok(value)) => {
                connection.failures.store(0, Ordering::Relaxed);
                if self.failures.swap(0, Ordering::Relaxed) >= FAILURES_TO_OPEN {
                    self.metrics.breaker(false);
                    info!("Redis answers");
                }
                return Ok(value);
            }
            Ok(Err(error)) if error.is_timeout() => ("timeout", error.to_string()),
            // Full (OOM) or unable to write (MISCONF): the command failed, but reads go on.
            Ok(Err(error)) if matches!(error.code(), Some("OOM" | "MISCONF")) => {
                self.metrics.error("full");
                return Err(Unavailable);
            }
            Ok(Err(error)) => ("error", error.to_string()),
            Err(_) => ("timeout", format!("no answer within {:?}", self.deadline)),
        };
        self.metrics.error(kind);
        connection.failures.fetch_add(1, Ordering::Relaxed);
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 == FAILURES_TO_OPEN {
            self.metrics.breaker(true);
            warn!(error, "Redis does not answer; going on without it");
        }
        Err(Unavailable)
    }
}
