use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisError};
use service::runtime;

/// Connections to Redis, as many as there are cores. A thread always uses the same one, whose events then wake that
/// thread: with a single one, every answer passes through the thread on which it was made.
pub struct Connections {
    client: Client,
    config: ConnectionManagerConfig,
    open: RwLock<Vec<Arc<Connection>>>,
}

/// One of them.
pub struct Connection {
    /// What commands are sent by.
    pub manager: ConnectionManager,
    /// Commands in a row that came to nothing.
    pub failures: AtomicU32,
}

impl Connections {
    /// Connects when they are used.
    pub fn new(client: Client, config: ConnectionManagerConfig) -> Result<Self, RedisError> {
        let open = RwLock::new(lazy(&client, &config)?);
        Ok(Self { client, config, open })
    }

    /// That of the thread which asks.
    pub fn own(&self) -> Arc<Connection> {
        Arc::clone(&self.open()[runtime::current_core()])
    }

    /// The most commands in a row that came to nothing on the same one.
    pub fn failures(&self) -> u32 {
        self.open().iter().map(|connection| connection.failures.load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    /// Puts new ones in the place of all, once one of them stands: those of the other threads connect when they are used.
    pub async fn replace(&self) -> Result<(), RedisError> {
        let own = ConnectionManager::new_with_config(self.client.clone(), self.config.clone()).await?;
        let mut fresh = lazy(&self.client, &self.config)?;
        fresh[runtime::current_core()] = Arc::new(Connection::new(own));
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    fn open(&self) -> RwLockReadGuard<'_, Vec<Arc<Connection>>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn new(manager: ConnectionManager) -> Self {
        Self { manager, failures: AtomicU32::new(0) }
    }
}

fn lazy(client: &Client, config: &ConnectionManagerConfig) -> Result<Vec<Arc<Connection>>, RedisError> {
    let one = || ConnectionManager::new_lazy_with_config(client.clone(), config.clone());
    (0..runtime::core_count()).map(|_| Ok(Arc::new(Connection::new(one()?)))).collect()
}
