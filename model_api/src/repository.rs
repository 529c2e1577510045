//! Which models and versions there are in `MODELS_DIR`:
//!
//! ```text
//! mnist.onnx                     a bare file
//! mnist/model.onnx               with room for mnist/model-settings.json
//! mnist/1/model.onnx             versions, by number or name: all are served, and the largest answers where none is named
//! mnist/1/model-settings.json    of this version alone, in place of mnist/model-settings.json
//! digits/model-settings.json     without a graph: a pipeline, if it says so
//! ```
//!
//! A graph that lies in the model's folder is the version `1`, unless there is a folder of that name. Whatever begins with a
//! dot is left alone, so that a folder can be filled under such a name and then be renamed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use contract::valid_model_name;
use serde::Deserialize;
use serde_json::Value;
use service::settings::SettingError;

use crate::model_settings::PIPELINE;
use crate::settings::Selection;
use crate::version::Version;

const GRAPH: &str = "model.onnx";
const SETTINGS: &str = "model-settings.json";

/// A graph that is in no version's folder has this one.
const ONLY_VERSION: &str = "1";

/// The folder of models.
#[derive(Clone, Debug)]
pub struct Repository {
    dir: PathBuf,
}

/// What there is under one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// From the smallest to the largest.
    pub versions: Vec<ModelFiles>,
    /// Why there is none, without a path.
    pub why_none: Option<String>,
}

/// Where a model version's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFiles {
    /// The folder's or the file's name.
    pub name: String,
    /// The version folder's name, or `"1"`.
    pub version: String,
    /// The ONNX file; a pipeline has none.
    pub graph: Option<PathBuf>,
    /// `model-settings.json`, where there is one.
    pub settings: Option<PathBuf>,
}

impl Repository {
    /// The models in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The models that `selection` asks for, by name. A name that does not exist is a setting error that lists those that
    /// do.
    pub fn select(&self, selection: &Selection) -> Result<BTreeMap<String, Found>, SettingError> {
        let mut all = self.find().map_err(unreadable)?;
        let models = all.extract_if(.., |_, found| !found.versions.is_empty()).collect::<BTreeMap<_, _>>();
        if models.is_empty() {
            return Err(SettingError::new(
                "MODELS_DIR",
                "there is no model: no NAME.onnx, NAME/model.onnx or NAME/VERSION/model.onnx",
            ));
        }
        let Selection::Names(names) = selection else { return Ok(models) };
        if let Some(unknown) = names.iter().find(|name| !models.contains_key(*name)) {
            let why_none = all.remove(unknown).and_then(|found| found.why_none);
            let why_none = why_none.map(|why| format!(", as {why}")).unwrap_or_default();
            let there_are = models.into_keys().collect::<Vec<_>>().join(", ");
            return Err(SettingError::new(
                "MODEL_NAME",
                format!("there is no model {unknown:?}{why_none}; there are: {there_are}"),
            ));
        }
        // A pipeline is of no use without its steps.
        let mut wanted: BTreeSet<String> = names.iter().cloned().collect();
        let mut unread: Vec<String> = names.clone();
        while let Some(name) = unread.pop() {
            let steps = models.get(&name).into_iter().flat_map(|found| &found.versions).flat_map(ModelFiles::steps);
            unread.extend(steps.filter(|step| wanted.insert(step.clone())));
        }
        Ok(models.into_iter().filter(|(name, _)| wanted.contains(name)).collect())
    }

    /// Everything that is a model or looks like one, by name.
    pub fn find(&self) -> io::Result<BTreeMap<String, Found>> {
        let names = self.names()?;
        Ok(names.into_iter().filter_map(|name| self.look_up(&name).map(|found| (name, found))).collect())
    }

    /// What there is under this name; `None` when there is neither a folder nor a file, or it could be no model's name.
    pub fn look_up(&self, name: &str) -> Option<Found> {
        if !is_shown(name) || name.contains('/') {
            return None;
        }
        let (folder, file) = (self.dir.join(name), self.dir.join(format!("{name}.onnx")));
        // Of a bare file and a folder with the same name the folder can say more.
        let mut found = if folder.is_dir() {
            look_into(&folder, name)
        } else if file.is_file() {
            Found::one(ModelFiles::new(name, ONLY_VERSION, Some(file), None))
        } else {
            return None;
        };
        if !valid_model_name(name) && !found.versions.is_empty() {
            found = Found::none("a model's name is made of at most 128 letters, digits, '.', '_' and '-'");
        }
        Some(found)
    }

    fn names(&self) -> io::Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let name = if path.is_dir() { Some(name) } else { name.strip_suffix(".onnx") };
            names.extend(name.filter(|name| is_shown(name)).map(str::to_owned));
        }
        Ok(names)
    }
}

impl Found {
    fn one(files: ModelFiles) -> Self {
        Self { versions: vec![files], why_none: None }
    }

    fn none(why: impl Into<String>) -> Self {
        Self { versions: Vec::new(), why_none: Some(why.into()) }
    }
}

impl ModelFiles {
    fn new(name: &str, version: &str, graph: Option<PathBuf>, settings: Option<PathBuf>) -> Self {
        Self { name: name.to_owned(), version: version.to_owned(), graph, settings }
    }

    /// The models that a pipeline's steps name.
    fn steps(&self) -> Vec<String> {
        let settings = self.settings.as_deref().filter(|_| self.graph.is_none());
        let said = settings.and_then(|settings| Outline::read(settings).ok()).unwrap_or_default();
        said.steps.iter().filter_map(|step| Some(step.get("model")?.as_str()?.to_owned())).collect()
    }
}

/// What settings say of a model's kind. All else in them may be wrong: that is told when they are loaded.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Outline {
    implementation: Value,
    steps: Vec<Value>,
}

impl Outline {
    /// The error says why they cannot be read.
    fn read(settings: &Path) -> Result<Self, String> {
        let json = fs::read(settings).map_err(|error| format!("{SETTINGS} cannot be read: {}", error.kind()))?;
        serde_json::from_slice(&json).map_err(|error| format!("{SETTINGS}: {error}"))
    }

    fn is_pipeline(&self) -> bool {
        self.implementation == PIPELINE
    }
}

fn look_into(folder: &Path, name: &str) -> Found {
    let entries = match fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
        Ok(entries) => entries,
        Err(error) => return Found::none(format!("its folder cannot be read: {}", error.kind())),
    };
    let settings = settings_in(folder);
    let mut versions = BTreeMap::new();
    if folder.join(GRAPH).is_file() {
        let files = ModelFiles::new(name, ONLY_VERSION, Some(folder.join(GRAPH)), settings.clone());
        versions.insert(Version(ONLY_VERSION.to_owned()), files);
    }
    let mut other_graphs = Vec::new();
    for entry in entries {
        let Ok(entry) = entry.file_name().into_string() else { continue };
        let (graph, own_settings) = (folder.join(&entry).join(GRAPH), settings_in(&folder.join(&entry)));
        let may_be_version = valid_model_name(&entry) && is_shown(&entry);
        if may_be_version && graph.is_file() {
            let settings = own_settings.or_else(|| settings.clone());
            versions.insert(Version(entry.clone()), ModelFiles::new(name, &entry, Some(graph), settings));
        } else if may_be_version && own_settings.as_deref().is_some_and(says_pipeline) {
            versions.insert(Version(entry.clone()), ModelFiles::new(name, &entry, None, own_settings));
        } else if entry.strip_suffix(".onnx").is_some() {
            other_graphs.push(entry);
        }
    }
    if !versions.is_empty() {
        return Found { versions: versions.into_values().collect(), why_none: None };
    }
    match settings.as_deref().map(Outline::read) {
        Some(Ok(said)) if said.is_pipeline() => {
            return Found::one(ModelFiles::new(name, ONLY_VERSION, None, settings));
        }
        Some(Err(reason)) => return Found::none(format!("its folder has no {GRAPH}, and {reason}")),
        Some(Ok(_)) | None => {}
    }
    match other_graphs.as_slice() {
        [] => Found::none(format!("its folder has no {GRAPH}, and no folder of a version that has one")),
        [other, ..] => {
            Found::none(format!("its folder has no {GRAPH}; there is {other:?}, which would have to be renamed"))
        }
    }
}

fn settings_in(folder: &Path) -> Option<PathBuf> {
    Some(folder.join(SETTINGS)).filter(|settings| settings.is_file())
}

fn says_pipeline(settings: &Path) -> bool {
    Outline::read(settings).is_ok_and(|said| said.is_pipeline())
}

fn is_shown(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.')
}

#[allow(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn unreadable(error: io::Error) -> SettingError {
    SettingError::new("MODELS_DIR", format!("cannot be read: {error}"))
}
