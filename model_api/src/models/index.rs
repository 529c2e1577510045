use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use contract::Unselected;
use open_inference::{ModelIndex, ModelState};
use tokio::task::spawn_blocking;

use super::Models;
use crate::repository::{Found, Repository};
use crate::settings::Selection;
use crate::shelf::{Place, index_unserved};
use crate::version::Version;

impl Models {
    /// Every version in the repository, served or not, and every one that is served. A folder that looks like a model and
    /// is none is there as well, without a version and with the reason.
    pub async fn index(&self) -> Vec<ModelIndex> {
        let repository = self.repository.clone();
        let found = spawn_blocking(move || repository.find().unwrap_or_default()).await.unwrap_or_default();
        self.note_unselected(&found);
        let places = self.places();
        let names: BTreeSet<&String> = places.keys().chain(found.keys()).collect();
        let line = |name: &String| {
            let unselected = self.why_unselected(name);
            index(name, places.get(name), found.get(name), unselected.as_deref())
        };
        names.into_iter().flat_map(line).collect()
    }

    /// Which models of the repository `MODEL_NAME` does not select, as last seen, and what `MODEL_NAME` is. Those that were
    /// loaded even so are not among them.
    pub fn unselected(&self) -> Unselected {
        let Selection::Names(selected) = self.repository.selection() else { return Unselected::default() };
        let places = self.places();
        let unselected = self.unselected.lock().unwrap_or_else(PoisonError::into_inner);
        let models = unselected.iter().filter(|name| !places.contains_key(*name)).cloned().collect();
        Unselected { model_name: selected.join(","), models }
    }

    /// Looks at the repository for what `MODEL_NAME` does not select.
    pub async fn look_for_unselected(&self) {
        if *self.repository.selection() != Selection::All {
            let repository = self.repository.clone();
            let found = spawn_blocking(move || repository.find()).await;
            if let Ok(Ok(found)) = found {
                self.note_unselected(&found);
            }
        }
    }

    fn note_unselected(&self, found: &BTreeMap<String, Found>) {
        let is_model = |(_, found): &(&String, &Found)| !found.versions.is_empty();
        let names = found.iter().filter(is_model).map(|(name, _)| name);
        let unselected = names.filter(|name| self.why_unselected(name).is_some()).cloned().collect();
        *self.unselected.lock().unwrap_or_else(PoisonError::into_inner) = unselected;
    }

    /// Why a model that is in the repository is not served; `None` where `MODEL_NAME` selects it.
    pub(super) fn why_unselected(&self, name: &str) -> Option<String> {
        match self.repository.selection() {
            Selection::Names(names) if !names.iter().any(|selected| selected == name) => {
                Some(format!("MODEL_NAME={} does not select it", names.join(",")))
            }
            _ => None,
        }
    }

    /// The names in the repository.
    pub(super) async fn there_are(&self) -> String {
        let repository = self.repository.clone();
        let models = |repository: Repository| -> BTreeMap<String, Found> { repository.find().unwrap_or_default() };
        let found = spawn_blocking(move || models(repository)).await.unwrap_or_default();
        super::list(found.iter().filter(|(_, found)| !found.versions.is_empty()).map(|(name, _)| name.as_str()))
    }

    /// What is in the repository under this name.
    pub(super) async fn look_up(self: &Arc<Self>, name: &str) -> Option<Found> {
        let (repository, name) = (self.repository.clone(), name.to_owned());
        spawn_blocking(move || repository.look_up(&name)).await.ok().flatten()
    }
}

fn index(name: &str, place: Option<&Place>, found: Option<&Found>, unselected: Option<&str>) -> Vec<ModelIndex> {
    let slots = place.into_iter().flat_map(|place| &place.slots);
    let mut lines: BTreeMap<Version, ModelIndex> =
        slots.map(|(version, slot)| (version.clone(), slot.index(name, version))).collect();
    for files in found.into_iter().flat_map(|found| &found.versions) {
        let line = || index_unserved(name, &files.version, place, unselected);
        lines.entry(Version(files.version.clone())).or_insert_with(line);
    }
    if let Some(reason) = found.and_then(|found| found.why_none.clone()).filter(|_| lines.is_empty()) {
        let line = ModelIndex {
            name: name.to_owned(),
            version: String::new(),
            state: ModelState::Unavailable,
            reason,
            batching: None,
        };
        lines.insert(Version::default(), line);
    }
    // What is passed over is said once, with the version that answers where none is named.
    let passed_over = found.map(|found| found.passed_over.join("; ")).unwrap_or_default();
    if let Some(line) = lines.values_mut().next_back().filter(|_| !passed_over.is_empty()) {
        line.reason = if line.reason.is_empty() { passed_over } else { format!("{}; {passed_over}", line.reason) };
    }
    lines.into_values().collect()
}
