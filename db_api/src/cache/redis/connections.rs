//! One Redis connection per core.
//!
//! A thread always uses the connection of its core, whose events wake that thread. With a single connection, every reply would pass
//! through the thread that opened it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisError};
use service::runtime;

/// The connections, by core.
pub struct Connections {
    client: Client,
    config: ConnectionManagerConfig,
    by_core: RwLock<Vec<Arc<Connection>>>,
}

/// A connection and its failures.
pub struct Connection {
    /// Sends commands.
    pub manager: ConnectionManager,
    /// Consecutive failed commands.
    pub failures: AtomicU32,
}

impl Connections {
    /// Opens no connection yet: each connects on its first use.
    pub fn new(client: Client, config: ConnectionManagerConfig) -> Result<Self, RedisError> {
        let by_core = RwLock::new(lazy(&client, &config)?);
        Ok(Self { client, config, by_core })
    }

    /// The connection of the current thread's core.
    pub fn for_this_core(&self) -> Arc<Connection> {
        Arc::clone(&self.by_core()[runtime::current_core()])
    }

    /// The highest number of consecutive failures of any connection.
    pub fn failures(&self) -> u32 {
        self.by_core().iter().map(|connection| connection.failures.load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    /// Replaces all connections once a new one for this core is open. The others connect on their first use.
    pub async fn replace(&self) -> Result<(), RedisError> {
        let own = ConnectionManager::new_with_config(self.client.clone(), self.config.clone()).await?;
        let mut fresh = lazy(&self.client, &self.config)?;
        fresh[runtime::current_core()] = Arc::new(Connection::new(own));
        *self.by_core.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    fn by_core(&self) -> RwLockReadGuard<'_, Vec<Arc<Connection>>> {
        self.by_core.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn new(manager: ConnectionManager) -> Self {
        Self { manager, failures: AtomicU32::new(0) }
    }
}

fn lazy(client: &Client, config: &ConnectionManagerConfig) -> Result<Vec<Arc<Connection>>, RedisError> {
    let connect = || ConnectionManager::new_lazy_with_config(client.clone(), config.clone());
    (0..runtime::core_count()).map(|_| Ok(Arc::new(Connection::new(connect()?)))).collect()
}
