//! `MODEL_WATCH=poll`: the folder of models is looked at again and again, since no notification passes through network file
//! systems and bind mounts alike. What has changed is loaded once it has been still for two looks in a row, so that no
//! half-written copy is; what is gone is unloaded. A folder that could not be loaded is tried again when it changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use crate::fingerprint::Snapshot;
use crate::models::Models;
use crate::repository::Repository;
use crate::settings::Selection;

/// So many looks in a row must show the same.
const STILL: u32 = 2;

/// Looks after a folder of models.
pub struct Watch {
    repository: Repository,
    selection: Selection,
    changes: Changes,
}

/// What has changed since the models were loaded.
#[derive(Debug, Default)]
struct Changes {
    folder: (u64, u64),
    seen: BTreeMap<String, Seen>,
}

#[derive(Debug)]
struct Seen {
    /// When it was loaded, or could not be.
    settled: Option<u64>,
    last: u64,
    /// Looks that showed what the one before had shown.
    still: u32,
    /// Looks that showed nothing.
    missing: u32,
}

impl Watch {
    /// Takes the folder as it is now for what is being loaded: to be called before anything is. Only models of `selection`
    /// are loaded by themselves, and those that somebody loaded.
    pub fn new(repository: Repository, selection: Selection) -> Self {
        let changes = Snapshot::take(repository.dir()).map(Changes::settled).unwrap_or_default();
        Self { repository, selection, changes }
    }

    /// Looks for ever.
    pub async fn run(mut self, models: Arc<Models>, pause: Duration) {
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reachable = true;
        loop {
            ticks.tick().await;
            let dir = self.repository.dir().to_owned();
            // The file system may be slow, or gone.
            let snapshot = spawn_blocking(move || Snapshot::take(&dir)).await;
            let snapshot = snapshot.ok().and_then(Result::ok).filter(|snapshot| !self.changes.is_unmounted(snapshot));
            if reachable && snapshot.is_none() {
                warn!("the folder of models cannot be read; the models that are loaded are still served");
            }
            reachable = snapshot.is_some();
            let Some(snapshot) = snapshot else { continue };
            self.changes.expect(models.names());
            let (changed, gone) = self.changes.look(&snapshot);
            let (wanted, unselected): (Vec<_>, Vec<_>) =
                changed.into_iter().partition(|name| self.wants(&models, name));
            if !unselected.is_empty() || !gone.is_empty() {
                let models = Arc::clone(&models);
                tokio::spawn(async move { models.look_for_unselected().await });
            }
            for name in wanted {
                debug!(model = name, "files have changed and are still");
                let models = Arc::clone(&models);
                // A model that takes long to load keeps no other waiting. What goes wrong is logged where it does; a new
                // folder that is no model is nobody's mistake.
                tokio::spawn(async move { models.load(&name).await });
            }
            for name in gone.into_iter().filter(|name| models.knows(name)) {
                let models = Arc::clone(&models);
                tokio::spawn(async move { models.remove(&name).await });
            }
        }
    }

    fn wants(&self, models: &Models, name: &str) -> bool {
        let selected = match &self.selection {
            Selection::All => true,
            Selection::Names(names) => names.iter().any(|selected| selected == name),
        };
        !models.was_unloaded(name) && (selected || models.knows(name))
    }
}

impl Changes {
    fn settled(snapshot: Snapshot) -> Self {
        let settled = |print| Seen { settled: Some(print), last: print, still: 0, missing: 0 };
        let seen = snapshot.models.into_iter().map(|(name, print)| (name, settled(print))).collect();
        Self { folder: snapshot.folder, seen }
    }

    /// An empty folder in the place of the one that held the models: a mount that has gone looks like that.
    fn is_unmounted(&self, snapshot: &Snapshot) -> bool {
        snapshot.models.is_empty() && !self.seen.is_empty() && snapshot.folder != self.folder
    }

    /// Models that are served count as seen: a folder that was loaded and removed between two looks is gone as well.
    fn expect(&mut self, served: Vec<String>) {
        for name in served {
            self.seen.entry(name).or_insert(Seen { settled: None, last: 0, still: 0, missing: 0 });
        }
    }

    /// The models that are to be loaded now, and those that are gone.
    fn look(&mut self, snapshot: &Snapshot) -> (Vec<String>, Vec<String>) {
        self.folder = snapshot.folder;
        let mut changed = Vec::new();
        for (name, &print) in &snapshot.models {
            let Some(seen) = self.seen.get_mut(name) else {
                self.seen.insert(name.clone(), Seen { settled: None, last: print, still: 0, missing: 0 });
                continue;
            };
            seen.missing = 0;
            seen.still = if seen.last == print { seen.still + 1 } else { 0 };
            seen.last = print;
            if seen.still >= STILL && seen.settled != Some(print) {
                seen.settled = Some(print);
                changed.push(name.clone());
            }
        }
        let is_gone = |name: &String, seen: &mut Seen| {
            seen.missing += u32::from(!snapshot.models.contains_key(name));
            seen.missing >= STILL
        };
        let gone = self.seen.extract_if(.., is_gone).map(|(name, _)| name).collect();
        (changed, gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(models: &[(&str, u64)]) -> Snapshot {
        Snapshot { folder: (1, 1), models: models.iter().map(|&(name, print)| (name.to_owned(), print)).collect() }
    }

    fn looks<const N: usize>(changes: &mut Changes, looks: [&[(&str, u64)]; N]) -> [(Vec<String>, Vec<String>); N] {
        looks.map(|models| changes.look(&snapshot(models)))
    }

    fn nothing() -> (Vec<String>, Vec<String>) {
        (vec![], vec![])
    }

    fn changed() -> (Vec<String>, Vec<String>) {
        (vec!["m".to_owned()], vec![])
    }

    #[test]
    fn a_change_counts_when_two_looks_in_a_row_have_shown_the_same_and_only_once() {
        let mut changes = Changes::settled(snapshot(&[("m", 1)]));
        let found = looks(&mut changes, [&[("m", 1)], &[("m", 2)], &[("m", 2)], &[("m", 2)], &[("m", 2)], &[("m", 2)]]);
        assert_eq!(found, [nothing(), nothing(), nothing(), changed(), nothing(), nothing()]);
    }

    #[test]
    fn what_never_stops_changing_is_never_loaded_and_what_changes_back_need_not_be() {
        let mut changes = Changes::settled(snapshot(&[("m", 1)]));
        let found = looks(&mut changes, [&[("m", 2)], &[("m", 2)], &[("m", 3)], &[("m", 3)], &[("m", 1)], &[("m", 1)]]);
        assert_eq!(found, [const { (vec![], vec![]) }; 6]);
        assert_eq!(looks(&mut changes, [&[("m", 1)]]), [nothing()]);
    }

    #[test]
    fn a_new_folder_has_to_be_still_as_well_and_a_short_absence_is_none() {
        let mut changes = Changes::settled(snapshot(&[("n", 1)]));
        let found = looks(&mut changes, [&[("m", 1)], &[("m", 1), ("n", 1)], &[("m", 1)], &[("m", 1)], &[("m", 1)]]);
        let gone = (vec![], vec!["n".to_owned()]);
        assert_eq!(found, [nothing(), nothing(), changed(), gone, nothing()]);
    }

    #[test]
    fn what_was_loaded_and_removed_between_two_looks_is_gone() {
        let mut changes = Changes::settled(snapshot(&[("n", 1)]));
        let mut look = || {
            changes.expect(vec!["m".to_owned(), "n".to_owned()]);
            changes.look(&snapshot(&[("n", 1)]))
        };
        assert_eq!([look(), look()], [nothing(), (vec![], vec!["m".to_owned()])]);
    }

    #[test]
    fn an_empty_folder_in_the_place_of_another_is_a_mount_that_has_gone() {
        let changes = Changes::settled(snapshot(&[("m", 1)]));
        assert!(changes.is_unmounted(&Snapshot { folder: (2, 1), models: BTreeMap::new() }));
        assert!(!changes.is_unmounted(&snapshot(&[])), "somebody emptied it");
    }
}
