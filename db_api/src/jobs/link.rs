use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, FromRedisValue, Pipeline, RedisError, cmd};
use tokio::time::timeout;
use tracing::{info, warn};

use super::JobError;

/// Every step of a job as one function in Redis.
const FUNCTIONS: &str = include_str!("functions.lua");

/// A connection with a deadline, which is made anew when its other end has fallen silent.
pub struct Link {
    client: Client,
    config: ConnectionManagerConfig,
    deadline: Duration,
    connection: RwLock<ConnectionManager>,
}

impl Link {
    /// Does not connect yet.
    pub fn new(client: Client, deadline: Duration) -> Result<Self, RedisError> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(deadline))
            .set_number_of_retries(1);
        let connection = RwLock::new(ConnectionManager::new_lazy_with_config(client.clone(), config.clone())?);
        Ok(Self { client, config, deadline, connection })
    }

    /// Another connection to the same Redis.
    pub fn beside(&self, deadline: Duration) -> Result<Self, RedisError> {
        Self::new(self.client.clone(), deadline)
    }

    /// Asks, and asks once more over a new connection when the old one turns out to be closed: everything that is asked here may be
    /// asked twice.
    pub async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, JobError> {
        let answer = match self.command(command).await {
            Err(error) if is_unknown_function(&error) => {
                self.load_functions().await.map_err(|error| failure(&error))?;
                self.command(command).await
            }
            Err(error) if error.is_connection_dropped() => self.command(command).await,
            answer => answer,
        };
        answer.map_err(|error| failure(&error))
    }

    /// Puts this version's functions into Redis, in the place of an older one's.
    pub async fn load_functions(&self) -> Result<(), RedisError> {
        let mut load = cmd("FUNCTION");
        load.arg("LOAD").arg("REPLACE").arg(FUNCTIONS);
        self.command::<String>(&load).await.map(|_| info!("the functions for jobs are in Redis"))
    }

    /// [`Self::ask`] for several commands on one way there and back.
    pub async fn ask_all<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, JobError> {
        let mut connection = self.connection();
        let mut asked = timeout(self.deadline, commands.query_async(&mut connection)).await;
        if matches!(&asked, Ok(Err(error)) if error.is_connection_dropped()) {
            asked = timeout(self.deadline, commands.query_async(&mut connection)).await;
        }
        asked.unwrap_or_else(|_| Err(self.fell_silent())).map_err(|error| failure(&error))
    }

    /// Asks once, and gives Redis' own error.
    pub async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let mut connection = self.connection();
        match timeout(self.deadline, command.query_async(&mut connection)).await {
            Ok(Err(error)) if error.is_timeout() => Err(self.fell_silent()),
            Ok(answer) => answer,
            Err(_) => Err(self.fell_silent()),
        }
    }

    fn connection(&self) -> ConnectionManager {
        self.connection.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts a new connection in the place of one that may be half open: see `RedisStore`.
    fn fell_silent(&self) -> RedisError {
        if let Ok(connection) = ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone()) {
            *self.connection.write().unwrap_or_else(PoisonError::into_inner) = connection;
        }
        RedisError::from((redis::ErrorKind::Io, "no answer in time"))
    }
}

fn is_unknown_function(error: &RedisError) -> bool {
    error.to_string().contains("Function not found")
}

/// What the caller is told; the log is told the rest.
pub fn failure(error: &RedisError) -> JobError {
    match error.code() {
        Some("FULL" | "OOM" | "MISCONF") => JobError::Full,
        Some("LONG") => {
            JobError::Long(error.detail().and_then(|length| length.trim().parse().ok()).unwrap_or_default())
        }
        Some("CONFLICT") => JobError::Conflict,
        Some("NOGROUP") => JobError::Unavailable,
        _ => {
            warn!(%error, "Redis does not do what a job needs");
            JobError::Unavailable
        }
    }
}
