//! Redis client of the cache, with a timeout per command and a circuit breaker: a slow or dead Redis makes requests slower, but never
//! wrong.

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

mod connections;

use connections::Connections;

use super::entry::{CacheEntry, MAX_ENTRY_BYTES, redis_value};
use super::keys::{CacheKey, INVALIDATION_CHANNEL, PROBE, result_pattern};
use crate::metrics::CacheMetrics;

/// Consecutive failures that open the circuit breaker.
const FAILURES_TO_OPEN: u32 = 3;

/// Interval of the health probe, and timeout of a connection attempt.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Result of a lookup in Redis.
#[derive(Debug)]
pub enum Lookup {
    /// The cached result.
    Hit(Arc<CacheEntry>),
    /// The key is absent, or its value is not a result of the key.
    Miss,
    /// Redis did not respond in time, or the circuit breaker is open.
    Unavailable,
}

/// Redis could not be reached, or did not respond in time. The log has the details.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("Redis, which holds the cache, does not respond")]
pub struct RedisUnavailable;

/// Redis store of cached results, with a timeout per command and a circuit breaker. Clones share connections and breaker.
///
/// The breaker counts consecutive failures; while it is open, commands fail immediately instead of costing the timeout each. A probe
/// every second closes it, so that no client's request is spent on testing Redis. The probe also replaces the connections, which on
/// their own detect a dead peer only when it closes the connection.
#[derive(Clone)]
pub struct RedisStore {
    client: Client,
    connections: Arc<Connections>,
    /// Signals that the connections were replaced. The subscription has a connection of the same age, and reconnects as well.
    replaced: Arc<Notify>,
    timeout: Duration,
    ttl: Duration,
    failures: Arc<AtomicU32>,
    metrics: CacheMetrics,
}

impl RedisStore {
    /// Opens no connection: the service starts with Redis, after it, or without it.
    pub fn new(url: &str, timeout: Duration, ttl: Duration, metrics: CacheMetrics) -> Result<Self, RedisError> {
        let client = Client::open(url)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(PROBE_INTERVAL))
            .set_response_timeout(Some(timeout))
            .set_number_of_retries(1);
        let connections = Arc::new(Connections::new(client.clone(), config)?);
        // Unavailable until the first successful probe: the first request must not wait for a connection either.
        let failures = Arc::new(AtomicU32::new(FAILURES_TO_OPEN));
        metrics.set_breaker_open(true);
        Ok(Self { client, connections, replaced: Arc::default(), timeout, ttl, failures, metrics })
    }

    /// Whether the circuit breaker is closed.
    pub fn is_available(&self) -> bool {
        self.failures.load(Ordering::Relaxed) < FAILURES_TO_OPEN
    }

    pub(super) async fn get(&self, key: CacheKey, model: &str) -> Lookup {
        // GETRANGE bounds the reply: one byte above the limit shows that a value is too long. An empty reply is a miss.
        let mut get = cmd("GETRANGE");
        get.arg(key.redis_key(model)).arg(0).arg(MAX_ENTRY_BYTES);
        match self.execute::<Vec<u8>>(&get).await {
            Err(RedisUnavailable) => Lookup::Unavailable,
            Ok(bytes) if bytes.is_empty() => Lookup::Miss,
            Ok(bytes) => CacheEntry::from_bytes(bytes, key).map_or_else(
                || {
                    self.metrics.record_error("corrupt");
                    warn!(%key, model, "the cached value in Redis is corrupt or has another format; computing the result again");
                    Lookup::Miss
                },
                |entry| Lookup::Hit(Arc::new(entry)),
            ),
        }
    }

    /// Best effort: a result that is not written is computed again.
    pub(super) async fn set(&self, key: CacheKey, model: &str, encoded: &[u8]) {
        let Some(bytes) = redis_value(encoded, key) else { return };
        let mut set = cmd("SET");
        set.arg(key.redis_key(model)).arg(bytes).arg("EX").arg(self.ttl.as_secs().max(1));
        let _ = self.execute::<()>(&set).await;
    }

    /// Deletes every result of `model`, notifies the other replicas, and returns how many results there were.
    pub(super) async fn invalidate_model(&self, model: &str) -> Result<u64, RedisUnavailable> {
        let unlinked = self.unlink(model).await;
        // Also published after a partial failure: results deleted here must not survive in the local caches of other replicas.
        let published = self.execute::<()>(cmd("PUBLISH").arg(INVALIDATION_CHANNEL).arg(model)).await;
        published.and(unlinked)
    }

    async fn unlink(&self, model: &str) -> Result<u64, RedisUnavailable> {
        let mut unlinked = 0;
        let mut cursor = 0;
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(result_pattern(model)).arg("COUNT").arg(1000);
            let (next, keys): (u64, Vec<String>) = self.execute(&scan).await?;
            if !keys.is_empty() {
                unlinked += self.execute::<u64>(cmd("UNLINK").arg(keys)).await?;
            }
            if next == 0 {
                return Ok(unlinked);
            }
            cursor = next;
        }
    }

    /// Health probe: checks once a second whether Redis responds. Never returns.
    pub async fn probe_loop(self) {
        loop {
            let is_silent = !self.is_healthy().await && !self.is_available();
            // The connection of another thread may be half-open while that of the probe is not.
            if (is_silent || self.connections.failures() >= FAILURES_TO_OPEN) && self.replace().await {
                self.is_healthy().await;
            }
            sleep(PROBE_INTERVAL).await;
        }
    }

    async fn is_healthy(&self) -> bool {
        self.send::<Option<Vec<u8>>>(cmd("GET").arg(PROBE)).await.is_ok()
    }

    /// Replaces connections that may be half-open because their peer vanished without closing them (a lost machine, a dropped
    /// firewall state). The connection manager does not react to timeouts, and the kernel takes a quarter of an hour. The old
    /// connections stay until a new one is open, so that one which is slow to connect succeeds as well.
    async fn replace(&self) -> bool {
        let Ok(Ok(())) = timeout(PROBE_INTERVAL, self.connections.replace()).await else { return false };
        self.replaced.notify_waiters();
        true
    }

    /// Calls `invalidate` with each model that a replica invalidates. `None` means that messages may have been missed, and every local
    /// entry must go. Never returns.
    pub async fn subscribe_loop(self, invalidate: impl Fn(Option<String>)) {
        loop {
            if let Ok(Ok(subscription)) = timeout(PROBE_INTERVAL, self.subscribe()).await {
                let mut replaced = pin!(self.replaced.notified());
                invalidate(None);
                let mut messages = subscription.into_on_message();
                loop {
                    let message = tokio::select! {
                        message = messages.next() => message,
                        () = &mut replaced => None,
                    };
                    let Some(message) = message else { break };
                    invalidate(message.get_payload().ok());
                }
            }
            sleep(PROBE_INTERVAL).await;
        }
    }

    async fn subscribe(&self) -> Result<PubSub, RedisError> {
        let mut subscription = self.client.get_async_pubsub().await?;
        subscription.subscribe(INVALIDATION_CHANNEL).await?;
        Ok(subscription)
    }

    /// Sends a command unless the circuit breaker is open.
    async fn execute<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, RedisUnavailable> {
        if self.is_available() { self.send(command).await } else { Err(RedisUnavailable) }
    }

    async fn send<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, RedisUnavailable> {
        let connection = self.connections.for_this_core();
        let (kind, error) = match timeout(self.timeout, command.query_async(&mut connection.manager.clone())).await {
            Ok(Ok(value)) => {
                connection.failures.store(0, Ordering::Relaxed);
                if self.failures.swap(0, Ordering::Relaxed) >= FAILURES_TO_OPEN {
                    self.metrics.set_breaker_open(false);
                    info!("Redis responds; the circuit breaker of the cache is closed");
                }
                return Ok(value);
            }
            Ok(Err(error)) if error.is_timeout() => ("timeout", error.to_string()),
            // Out of memory (OOM) or unable to write (MISCONF): this command failed, but reads still work.
            Ok(Err(error)) if matches!(error.code(), Some("OOM" | "MISCONF")) => {
                self.metrics.record_error("full");
                return Err(RedisUnavailable);
            }
            Ok(Err(error)) => ("error", error.to_string()),
            Err(_) => ("timeout", format!("no reply within {:?}", self.timeout)),
        };
        self.metrics.record_error(kind);
        connection.failures.fetch_add(1, Ordering::Relaxed);
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 == FAILURES_TO_OPEN {
            self.metrics.set_breaker_open(true);
            warn!(error, "Redis does not respond; the circuit breaker of the cache is open");
        }
        Err(RedisUnavailable)
    }
}
