use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use open_inference::{ModelIndex, ModelState};
use tokio::task::spawn_blocking;

use super::Models;
use crate::repository::{Found, Repository};
use crate::shelf::{Place, index_unserved};
use crate::version::Version;

impl Models {
    /// Every version in the repository, served or not, and every one that is served. A folder that looks like a model and
    /// is none is there as well, without a version and with the reason.
    pub async fn index(&self) -> Vec<ModelIndex> {
        let repository = self.repository.clone();
        let found = spawn_blocking(move || repository.find().unwrap_or_default()).await.unwrap_or_default();
        let places = self.places();
        let names: BTreeSet<&String> = places.keys().chain(found.keys()).collect();
        names.into_iter().flat_map(|name| index(name, places.get(name), found.get(name))).collect()
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

fn index(name: &str, place: Option<&Place>, found: Option<&Found>) -> Vec<ModelIndex> {
    let slots = place.into_iter().flat_map(|place| &place.slots);
    let mut lines: BTreeMap<Version, ModelIndex> =
        slots.map(|(version, slot)| (version.clone(), slot.index(name, version))).collect();
    for files in found.into_iter().flat_map(|found| &found.versions) {
        let line = || index_unserved(name, &files.version, place);
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
    lines.into_values().collect()
}
