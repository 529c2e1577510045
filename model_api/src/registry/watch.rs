//! Repository watcher (`MODEL_WATCH=poll`): polls the folder of models and loads and unloads what has changed.
//!
//! It polls because file notifications pass neither through network file systems nor through bind mounts.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::ModelRegistry;
use crate::repository::{ChangeDetector, Repository, Selection, Snapshot};

/// Polls a folder of models.
pub struct RepositoryWatcher {
    repository: Repository,
    selection: Selection,
    detector: ChangeDetector,
}

impl RepositoryWatcher {
    /// Takes the current state of the folder as loaded, so it must be created before the first load. It loads models of
    /// `selection`, and reloads all models that were loaded on request.
    pub fn new(repository: Repository, selection: Selection) -> Self {
        let detector = Snapshot::capture(repository.dir()).map(ChangeDetector::from_loaded).unwrap_or_default();
        Self { repository, selection, detector }
    }

    /// Polls until the future is dropped.
    pub async fn run(mut self, registry: Arc<ModelRegistry>, poll_interval: Duration) {
        let mut ticks = interval(poll_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reachable = true;
        loop {
            ticks.tick().await;
            let snapshot = self.snapshot().await;
            if reachable && snapshot.is_none() {
                warn!("the folder of models cannot be read; loaded models are still served");
            }
            reachable = snapshot.is_some();
            if let Some(snapshot) = snapshot {
                self.apply(&registry, &snapshot);
            }
        }
    }

    /// The folder as it is now; `None` when it cannot be read.
    async fn snapshot(&self) -> Option<Snapshot> {
        let dir = self.repository.dir().to_owned();
        // In a blocking thread: a network file system may be slow or unreachable.
        let snapshot = spawn_blocking(move || Snapshot::capture(&dir)).await;
        snapshot.ok().and_then(Result::ok).filter(|snapshot| !self.detector.is_unmounted(snapshot))
    }

    /// Starts the loads and unloads that this snapshot requires.
    fn apply(&mut self, registry: &Arc<ModelRegistry>, snapshot: &Snapshot) {
        self.detector.track(registry.names());
        let changes = self.detector.observe(snapshot);
        let (loadable, unselected): (Vec<_>, Vec<_>) =
            changes.changed.into_iter().partition(|name| self.should_load(registry, name));
        if !unselected.is_empty() || !changes.removed.is_empty() {
            let registry = Arc::clone(registry);
            tokio::spawn(async move { registry.refresh_unselected().await });
        }
        for name in loadable {
            debug!(model = name, "model files changed, loading");
            let registry = Arc::clone(registry);
            // One task each, so that a slow load delays no other. The registry logs failures; a new folder without a model is
            // not one.
            tokio::spawn(async move { registry.load(&name).await });
        }
        for name in changes.removed.into_iter().filter(|name| registry.contains(name)) {
            let registry = Arc::clone(registry);
            tokio::spawn(async move { registry.remove(&name).await });
        }
    }

    fn should_load(&self, registry: &ModelRegistry, name: &str) -> bool {
        !registry.is_unloaded(name) && (self.selection.contains(name) || registry.contains(name))
    }
}
