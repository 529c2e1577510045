use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, cmd};
use tokio::time::timeout;
use tracing::{info, warn};

use super::breaker::Breaker;
use super::functions::FUNCTIONS;
use super::{JobError, Share};

/// A longer command gets so much more time for each of its bytes, and those of its reply.
const SLOWEST_BYTES_PER_MS: usize = 2048;

/// Replies that a command may have. Any other error may be one of the connection, such as a failed log-in.
const REPLIES: [&str; 10] =
    ["FULL", "SHARE", "LONG", "CONFLICT", "OOM", "MISCONF", "NOGROUP", "BUSYGROUP", "WRONGTYPE", "LOADING"];

/// Connection to Redis with a deadline for each command. After an error that is no reply to a command it is replaced, and a circuit
/// breaker, which all connections share, lets commands fail at once while Redis does not answer.
pub struct Link {
    client: Client,
    config: ConnectionManagerConfig,
    deadline: Duration,
    connection: RwLock<ConnectionManager>,
    breaker: Arc<Breaker>,
}

impl Link {
    /// Does not connect yet.
    pub fn new(client: Client, deadline: Duration) -> Result<Self, RedisError> {
        Self::with(client, deadline, Arc::new(Breaker::new()))
    }

    /// Another connection to the same Redis.
    pub fn beside(&self, deadline: Duration) -> Result<Self, RedisError> {
        Self::with(self.client.clone(), deadline, Arc::clone(&self.breaker))
    }

    fn with(client: Client, deadline: Duration, breaker: Arc<Breaker>) -> Result<Self, RedisError> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(None)
            .set_number_of_retries(1);
        let connection = RwLock::new(ConnectionManager::new_lazy_with_config(client.clone(), config.clone())?);
        Ok(Self { client, config, deadline, connection, breaker })
    }

    /// Sends a command, and sends it once more over a new connection when the old one turns out to be closed: everything that is sent
    /// here may be sent twice.
    pub async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, JobError> {
        self.ask_for(command, 0).await
    }

    /// [`Self::ask`] for a command that has this many bytes together with its reply.
    pub async fn ask_for<T: FromRedisValue>(&self, command: &Cmd, bytes: usize) -> Result<T, JobError> {
        self.send(command, bytes).await.map_err(|error| failure(&error))
    }

    /// [`Self::ask_for`], with Redis' own error.
    pub async fn send<T: FromRedisValue>(&self, command: &Cmd, bytes: usize) -> Result<T, RedisError> {
        let deadline = self.deadline + Duration::from_millis((bytes / SLOWEST_BYTES_PER_MS) as u64);
        match self.command_within(command, deadline).await {
            Err(error) if is_unknown_function(&error) => {
                self.load_functions().await?;
                self.command_within(command, deadline).await
            }
            Err(error) if was_closed(&error) => self.command_within(command, deadline).await,
            answer => answer,
        }
    }

    /// Puts this version's functions into Redis, in the place of an older one's.
    pub async fn load_functions(&self) -> Result<(), RedisError> {
        let mut load = cmd("FUNCTION");
        load.arg("LOAD").arg("REPLACE").arg(FUNCTIONS);
        self.command::<String>(&load).await.map(|_| info!("the functions for jobs are in Redis"))
    }

    /// [`Self::ask`] for several commands in one round trip.
    pub async fn ask_all<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, JobError> {
        let mut asked = self.pipeline(commands).await;
        if matches!(&asked, Err(error) if was_closed(error)) {
            asked = self.pipeline(commands).await;
        }
        asked.map_err(|error| failure(&error))
    }

    async fn pipeline<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, RedisError> {
        if !self.breaker.admits(self.deadline) {
            return Err(does_not_answer());
        }
        let mut connection = self.connection();
        let answer = timeout(self.deadline, commands.query_async(&mut connection)).await;
        self.judge(answer.unwrap_or_else(|_| Err(does_not_answer())))
    }

    /// Sends a command once, and gives Redis' own error.
    pub async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        self.command_within(command, self.deadline).await
    }

    async fn command_within<T: FromRedisValue>(&self, command: &Cmd, deadline: Duration) -> Result<T, RedisError> {
        if !self.breaker.admits(deadline) {
            return Err(does_not_answer());
        }
        let mut connection = self.connection();
        let answer = timeout(deadline, command.query_async(&mut connection)).await;
        self.judge(answer.unwrap_or_else(|_| Err(does_not_answer())))
    }

    fn connection(&self) -> ConnectionManager {
        self.connection.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn judge<T>(&self, answer: Result<T, RedisError>) -> Result<T, RedisError> {
        let Err(error) = &answer else {
            self.breaker.close();
            return answer;
        };
        if is_reply(error) {
            self.breaker.close();
            return answer;
        }
        // The manager itself keeps a connection that falls silent, and one whose log-in has failed.
        self.replace();
        // A connection that was closed is no failure of Redis yet: the next one shows.
        let is_of_one_command =
            matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::UnexpectedReturnType);
        if !was_closed(error) && !is_of_one_command && self.breaker.open() {
            warn!(%error, "Redis does not answer; the queue for jobs is unavailable");
        }
        answer
    }

    fn replace(&self) {
        if let Ok(connection) = ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone()) {
            *self.connection.write().unwrap_or_else(PoisonError::into_inner) = connection;
        }
    }
}

fn does_not_answer() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "Redis does not answer in time").into()
}

/// The other end closed a connection that had worked.
fn was_closed(error: &RedisError) -> bool {
    error.is_connection_dropped() && !error.is_connection_refusal()
}

fn is_reply(error: &RedisError) -> bool {
    is_unknown_function(error) || error.code().is_some_and(|code| REPLIES.contains(&code))
}

fn is_unknown_function(error: &RedisError) -> bool {
    error.to_string().contains("Function not found")
}

/// What the caller is told; the log is told the rest.
pub fn failure(error: &RedisError) -> JobError {
    match error.code() {
        Some("FULL" | "OOM" | "MISCONF") => JobError::Full,
        Some("SHARE") => Share::read(error.detail().unwrap_or_default()).map_or(JobError::Full, JobError::Share),
        Some("LONG") => {
            JobError::Long(error.detail().and_then(|length| length.trim().parse().ok()).unwrap_or_default())
        }
        Some("CONFLICT") => JobError::Conflict,
        Some("NOGROUP") => JobError::Unavailable,
        _ => {
            // The breaker reports a Redis that does not answer, once.
            if !error.is_io_error() {
                warn!(%error, "Redis does not do what a job needs");
            }
            JobError::Unavailable
        }
    }
}
