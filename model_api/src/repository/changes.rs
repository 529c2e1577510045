//! Change detector: compares snapshots of the repository and reports changed and removed models.
//!
//! A change counts once [`STABLE_POLLS`] polls in a row have shown the same fingerprint, so that a half-written copy is never
//! loaded. A model that failed to load is reported again when it changes.

use std::collections::BTreeMap;

use super::fingerprint::Snapshot;

/// How many polls in a row must show the same fingerprint, or the absence of a model.
const STABLE_POLLS: u32 = 2;

/// What has changed since the models were loaded.
#[derive(Debug, Default)]
pub struct ChangeDetector {
    folder: (u64, u64),
    observations: BTreeMap<String, Observation>,
}

/// Changed and removed models, by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Models to load.
    pub changed: Vec<String>,
    /// Models to unload.
    pub removed: Vec<String>,
}

#[derive(Debug)]
struct Observation {
    /// The fingerprint that was loaded, or that failed to load.
    reported: Option<u64>,
    last: u64,
    /// Polls whose fingerprint was equal to that of the poll before.
    stable_polls: u32,
    /// Polls without the model.
    missing_polls: u32,
}

impl Observation {
    fn new(reported: Option<u64>, last: u64) -> Self {
        Self { reported, last, stable_polls: 0, missing_polls: 0 }
    }
}

impl ChangeDetector {
    /// All models of this snapshot count as reported.
    pub fn from_loaded(snapshot: Snapshot) -> Self {
        let loaded = |(name, print)| (name, Observation::new(Some(print), print));
        Self { folder: snapshot.folder, observations: snapshot.models.into_iter().map(loaded).collect() }
    }

    /// Whether an empty folder stands in the place of the folder that held the models, as after an unmount.
    pub fn is_unmounted(&self, snapshot: &Snapshot) -> bool {
        snapshot.models.is_empty() && !self.observations.is_empty() && snapshot.folder != self.folder
    }

    /// Adds models that are served, so that a folder that was loaded and removed between two polls is reported as removed.
    pub fn track(&mut self, served: Vec<String>) {
        for name in served {
            self.observations.entry(name).or_insert(Observation::new(None, 0));
        }
    }

    /// Compares a snapshot with those before it.
    pub fn observe(&mut self, snapshot: &Snapshot) -> Changes {
        self.folder = snapshot.folder;
        let mut changed = Vec::new();
        for (name, &print) in &snapshot.models {
            let Some(observation) = self.observations.get_mut(name) else {
                self.observations.insert(name.clone(), Observation::new(None, print));
                continue;
            };
            observation.missing_polls = 0;
            observation.stable_polls = if observation.last == print { observation.stable_polls + 1 } else { 0 };
            observation.last = print;
            if observation.stable_polls >= STABLE_POLLS && observation.reported != Some(print) {
                observation.reported = Some(print);
                changed.push(name.clone());
            }
        }
        let is_removed = |name: &String, observation: &mut Observation| {
            observation.missing_polls += u32::from(!snapshot.models.contains_key(name));
            observation.missing_polls >= STABLE_POLLS
        };
        let removed = self.observations.extract_if(.., is_removed).map(|(name, _)| name).collect();
        Changes { changed, removed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(models: &[(&str, u64)]) -> Snapshot {
        Snapshot { folder: (1, 1), models: models.iter().map(|&(name, print)| (name.to_owned(), print)).collect() }
    }

    fn observe_all<const N: usize>(detector: &mut ChangeDetector, polls: [&[(&str, u64)]; N]) -> [Changes; N] {
        polls.map(|models| detector.observe(&snapshot(models)))
    }

    fn nothing() -> Changes {
        Changes::default()
    }

    fn changed() -> Changes {
        Changes { changed: vec!["m".to_owned()], removed: vec![] }
    }

    fn removed(name: &str) -> Changes {
        Changes { changed: vec![], removed: vec![name.to_owned()] }
    }

    #[test]
    fn a_change_is_reported_once_and_after_two_equal_polls() {
        let mut detector = ChangeDetector::from_loaded(snapshot(&[("m", 1)]));
        let polls: [&[(&str, u64)]; 6] = [&[("m", 1)], &[("m", 2)], &[("m", 2)], &[("m", 2)], &[("m", 2)], &[("m", 2)]];
        let found = observe_all(&mut detector, polls);
        assert_eq!(found, [nothing(), nothing(), nothing(), changed(), nothing(), nothing()]);
    }

    #[test]
    fn a_model_that_keeps_changing_or_changes_back_is_not_reported() {
        let mut detector = ChangeDetector::from_loaded(snapshot(&[("m", 1)]));
        let polls: [&[(&str, u64)]; 6] = [&[("m", 2)], &[("m", 2)], &[("m", 3)], &[("m", 3)], &[("m", 1)], &[("m", 1)]];
        assert!(observe_all(&mut detector, polls).iter().all(|changes| *changes == nothing()));
        assert_eq!(observe_all(&mut detector, [&[("m", 1)]]), [nothing()]);
    }

    #[test]
    fn a_new_folder_must_be_stable_and_a_short_absence_is_ignored() {
        let mut detector = ChangeDetector::from_loaded(snapshot(&[("n", 1)]));
        let polls: [&[(&str, u64)]; 5] = [&[("m", 1)], &[("m", 1), ("n", 1)], &[("m", 1)], &[("m", 1)], &[("m", 1)]];
        let found = observe_all(&mut detector, polls);
        assert_eq!(found, [nothing(), nothing(), changed(), removed("n"), nothing()]);
    }

    #[test]
    fn a_model_that_was_loaded_and_removed_between_two_polls_is_reported_as_removed() {
        let mut detector = ChangeDetector::from_loaded(snapshot(&[("n", 1)]));
        let mut observe = || {
            detector.track(vec!["m".to_owned(), "n".to_owned()]);
            detector.observe(&snapshot(&[("n", 1)]))
        };
        assert_eq!([observe(), observe()], [nothing(), removed("m")]);
    }

    #[test]
    fn an_empty_folder_with_another_inode_is_an_unmount() {
        let detector = ChangeDetector::from_loaded(snapshot(&[("m", 1)]));
        assert!(detector.is_unmounted(&Snapshot { folder: (2, 1), models: BTreeMap::new() }));
        assert!(!detector.is_unmounted(&snapshot(&[])), "the same folder, now empty");
    }
}
