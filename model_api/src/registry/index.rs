//! Repository index: what is in the repository beside what is loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use contract::Unselected;
use open_inference::{ModelIndex, ModelState};
use tokio::task::spawn_blocking;

use super::ModelRegistry;
use super::entry::{ModelEntry, index_inactive, join_names};
use crate::repository::version::Version;
use crate::repository::{RepositoryEntry, Selection};

impl ModelRegistry {
    /// Every version in the repository and every version that is loaded. A folder that looks like a model and is none has a
    /// line without a version, with the reason.
    pub async fn index(&self) -> Vec<ModelIndex> {
        let repository = self.repository.clone();
        let found = spawn_blocking(move || repository.scan().unwrap_or_default()).await.unwrap_or_default();
        self.set_unselected(&found);
        let entries = self.entries();
        let names: BTreeSet<&String> = entries.keys().chain(found.keys()).collect();
        let lines = |name: &String| {
            let unselected = self.unselected_reason(name);
            index_model(name, entries.get(name), found.get(name), unselected.as_deref())
        };
        names.into_iter().flat_map(lines).collect()
    }

    /// The value of `MODEL_NAME`, and the models of the repository that it does not select, as of the last scan. Models that
    /// were loaded on request are left out.
    pub fn unselected(&self) -> Unselected {
        let Selection::Names(selected) = self.repository.selection() else { return Unselected::default() };
        let entries = self.entries();
        let unselected = self.unselected.lock().unwrap_or_else(PoisonError::into_inner);
        let models = unselected.iter().filter(|name| !entries.contains_key(*name)).cloned().collect();
        Unselected { model_name: selected.join(","), models }
    }

    /// Scans the repository for models that `MODEL_NAME` does not select.
    pub async fn refresh_unselected(&self) {
        if *self.repository.selection() != Selection::All {
            let repository = self.repository.clone();
            let found = spawn_blocking(move || repository.scan()).await;
            if let Ok(Ok(found)) = found {
                self.set_unselected(&found);
            }
        }
    }

    fn set_unselected(&self, found: &BTreeMap<String, RepositoryEntry>) {
        let is_model = |(_, entry): &(&String, &RepositoryEntry)| !entry.versions.is_empty();
        let names = found.iter().filter(is_model).map(|(name, _)| name);
        let unselected = names.filter(|name| self.unselected_reason(name).is_some()).cloned().collect();
        *self.unselected.lock().unwrap_or_else(PoisonError::into_inner) = unselected;
    }

    /// Why `MODEL_NAME` excludes a model; `None` when it selects the model.
    pub(super) fn unselected_reason(&self, name: &str) -> Option<String> {
        match self.repository.selection() {
            Selection::Names(names) if !names.iter().any(|selected| selected == name) => {
                Some(format!("MODEL_NAME={} does not select it", names.join(",")))
            }
            _ => None,
        }
    }

    /// The names of the models in the repository, for error texts.
    pub(super) async fn list_repository(&self) -> String {
        let repository = self.repository.clone();
        let found = spawn_blocking(move || repository.scan().unwrap_or_default()).await.unwrap_or_default();
        join_names(found.iter().filter(|(_, entry)| !entry.versions.is_empty()).map(|(name, _)| name.as_str()))
    }

    /// The repository's entry of this name.
    pub(super) async fn find_in_repository(&self, name: &str) -> Option<RepositoryEntry> {
        let (repository, name) = (self.repository.clone(), name.to_owned());
        spawn_blocking(move || repository.find(&name)).await.ok().flatten()
    }
}

fn index_model(
    name: &str,
    entry: Option<&ModelEntry>,
    found: Option<&RepositoryEntry>,
    unselected: Option<&str>,
) -> Vec<ModelIndex> {
    let loaded = entry.into_iter().flat_map(|entry| &entry.versions);
    let mut lines: BTreeMap<Version, ModelIndex> =
        loaded.map(|(version, version_entry)| (version.clone(), version_entry.index(name, version))).collect();
    for files in found.into_iter().flat_map(|found| &found.versions) {
        let line = || index_inactive(name, &files.version, entry, unselected);
        lines.entry(Version(files.version.clone())).or_insert_with(line);
    }
    if let Some(reason) = found.and_then(|found| found.rejection.clone()).filter(|_| lines.is_empty()) {
        let line = ModelIndex {
            name: name.to_owned(),
            version: String::new(),
            state: ModelState::Unavailable,
            reason,
            batching: None,
        };
        lines.insert(Version::default(), line);
    }
    // Skipped files are listed once, with the largest version.
    let skipped = found.map(|found| found.skipped.join("; ")).unwrap_or_default();
    if let Some(line) = lines.values_mut().next_back().filter(|_| !skipped.is_empty()) {
        line.reason = if line.reason.is_empty() { skipped } else { format!("{}; {skipped}", line.reason) };
    }
    lines.into_values().collect()
}
