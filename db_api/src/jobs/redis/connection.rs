//! Redis connection of the job queue, with a timeout per command and a circuit breaker.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, cmd};
use tokio::time::timeout;
use tracing::{info, warn};

use super::breaker::CircuitBreaker;
use crate::jobs::caller::QuotaExceeded;
use crate::jobs::error::JobError;
use crate::jobs::functions::FUNCTIONS;

/// Lowest assumed throughput, in bytes per millisecond. The timeout of a command grows with its bytes and those of its reply.
const MIN_BYTES_PER_MS: usize = 2048;

/// Error codes that are replies to a command. Any other error may concern the connection, such as a failed login.
const REPLY_CODES: [&str; 10] =
    ["FULL", "SHARE", "LONG", "CONFLICT", "OOM", "MISCONF", "NOGROUP", "BUSYGROUP", "WRONGTYPE", "LOADING"];

/// Connection to Redis with a timeout per command.
///
/// After an error that is not a reply to a command, the connection is replaced. A circuit breaker, which all connections to the same
/// Redis share, makes commands fail immediately while Redis does not respond.
pub struct JobConnection {
    client: Client,
    config: ConnectionManagerConfig,
    timeout: Duration,
    manager: RwLock<ConnectionManager>,
    breaker: Arc<CircuitBreaker>,
}

impl JobConnection {
    /// Does not connect until the first command.
    pub fn new(client: Client, timeout: Duration) -> Result<Self, RedisError> {
        Self::with_breaker(client, timeout, Arc::new(CircuitBreaker::new()))
    }

    /// Another connection to the same Redis, with the same circuit breaker.
    pub fn side_connection(&self, timeout: Duration) -> Result<Self, RedisError> {
        Self::with_breaker(self.client.clone(), timeout, Arc::clone(&self.breaker))
    }

    fn with_breaker(client: Client, timeout: Duration, breaker: Arc<CircuitBreaker>) -> Result<Self, RedisError> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(None)
            .set_number_of_retries(1);
        let manager = RwLock::new(ConnectionManager::new_lazy_with_config(client.clone(), config.clone())?);
        Ok(Self { client, config, timeout, manager, breaker })
    }

    /// Sends a command, and repeats it over a new connection when the old one turns out to be closed. Every command sent here must
    /// therefore be idempotent.
    pub async fn execute<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, JobError> {
        self.execute_large(command, 0).await
    }

    /// [`Self::execute`] for a command that has this many bytes together with its reply.
    pub async fn execute_large<T: FromRedisValue>(&self, command: &Cmd, bytes: usize) -> Result<T, JobError> {
        self.try_execute(command, bytes).await.map_err(|error| to_job_error(&error))
    }

    /// [`Self::execute_large`] with the error of Redis. Loads the function library where it is missing.
    pub async fn try_execute<T: FromRedisValue>(&self, command: &Cmd, bytes: usize) -> Result<T, RedisError> {
        let timeout = self.timeout + Duration::from_millis((bytes / MIN_BYTES_PER_MS) as u64);
        match self.send_within(command, timeout).await {
            Err(error) if is_unknown_function(&error) => {
                self.load_functions().await?;
                self.send_within(command, timeout).await
            }
            Err(error) if was_closed(&error) => self.send_within(command, timeout).await,
            reply => reply,
        }
    }

    /// Loads this version's function library into Redis, replacing an older one.
    pub async fn load_functions(&self) -> Result<(), RedisError> {
        let mut load = cmd("FUNCTION");
        load.arg("LOAD").arg("REPLACE").arg(FUNCTIONS);
        self.send_once::<String>(&load)
            .await
            .map(|_| info!("the function library of the job queue is loaded into Redis"))
    }

    /// [`Self::execute`] for several commands in one round trip.
    pub async fn execute_all<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, JobError> {
        let mut reply = self.send_pipeline(commands).await;
        if matches!(&reply, Err(error) if was_closed(error)) {
            reply = self.send_pipeline(commands).await;
        }
        reply.map_err(|error| to_job_error(&error))
    }

    async fn send_pipeline<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, RedisError> {
        if !self.breaker.admits(self.timeout) {
            return Err(timed_out());
        }
        let mut manager = self.manager();
        let reply = timeout(self.timeout, commands.query_async(&mut manager)).await;
        self.record(reply.unwrap_or_else(|_| Err(timed_out())))
    }

    /// Sends a command once, and returns the error of Redis.
    pub async fn send_once<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        self.send_within(command, self.timeout).await
    }

    async fn send_within<T: FromRedisValue>(&self, command: &Cmd, max_wait: Duration) -> Result<T, RedisError> {
        if !self.breaker.admits(max_wait) {
            return Err(timed_out());
        }
        let mut manager = self.manager();
        let reply = timeout(max_wait, command.query_async(&mut manager)).await;
        self.record(reply.unwrap_or_else(|_| Err(timed_out())))
    }

    fn manager(&self) -> ConnectionManager {
        self.manager.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Updates the circuit breaker, and replaces a connection that may be broken.
    fn record<T>(&self, reply: Result<T, RedisError>) -> Result<T, RedisError> {
        let Err(error) = &reply else {
            self.breaker.close();
            return reply;
        };
        if is_reply(error) {
            self.breaker.close();
            return reply;
        }
        // The manager keeps a silent connection, and one whose login failed, so replace it here.
        self.replace();
        // A closed connection is not yet a failure of Redis: the next command decides.
        let is_of_one_command =
            matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::UnexpectedReturnType);
        if !was_closed(error) && !is_of_one_command && self.breaker.open() {
            warn!(%error, "Redis does not respond; the circuit breaker of the job queue is open");
        }
        reply
    }

    fn replace(&self) {
        if let Ok(manager) = ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone()) {
            *self.manager.write().unwrap_or_else(PoisonError::into_inner) = manager;
        }
    }
}

fn timed_out() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "Redis does not respond in time").into()
}

/// The peer closed a connection that had worked.
fn was_closed(error: &RedisError) -> bool {
    error.is_connection_dropped() && !error.is_connection_refusal()
}

fn is_reply(error: &RedisError) -> bool {
    is_unknown_function(error) || error.code().is_some_and(|code| REPLY_CODES.contains(&code))
}

fn is_unknown_function(error: &RedisError) -> bool {
    error.to_string().contains("Function not found")
}

/// Maps an error of Redis to the caller's error, and logs what that error omits.
pub fn to_job_error(error: &RedisError) -> JobError {
    match error.code() {
        Some("FULL" | "OOM" | "MISCONF") => JobError::OutOfMemory,
        Some("SHARE") => {
            let quota = QuotaExceeded::parse(error.detail().unwrap_or_default());
            quota.map_or(JobError::OutOfMemory, JobError::QuotaExceeded)
        }
        Some("LONG") => {
            JobError::QueueFull(error.detail().and_then(|length| length.trim().parse().ok()).unwrap_or_default())
        }
        Some("CONFLICT") => JobError::Conflict,
        Some("NOGROUP") => JobError::Unavailable,
        _ => {
            // The circuit breaker already logs that Redis does not respond.
            if !error.is_io_error() {
                warn!(%error, "Redis rejects a command of the job queue");
            }
            JobError::Unavailable
        }
    }
}
