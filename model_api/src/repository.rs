//! Which models and versions there are in `MODELS_DIR`:
//!
//! ```text
//! mnist.onnx                     a bare file
//! mnist/model.onnx               with room for mnist/model-settings.json
//! mnist/1/model.onnx             versions, by number or name: all are served, and the largest answers where none is named
//! mnist/1/model-settings.json    of this version alone, in place of mnist/model-settings.json
//! mnist/config.pbtxt             Triton's settings of all versions; model-settings.json wins field by field
//! digits/model-settings.json     without a graph: a pipeline, if it says so
//! ```
//!
//! The extension may be written in any case, and `.ort` is ONNX Runtime's own format. A graph that lies in the model's folder
//! is the version `1`, unless there is a folder of that name. Whatever begins with a dot is left alone, so that a folder can
//! be filled under such a name and then be renamed.

mod graph_files;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use contract::valid_model_name;
use open_inference::utf8_json;
use serde::Deserialize;
use serde_json::Value;
use service::settings::SettingError;

use crate::model_settings::PIPELINE;
use crate::settings::Selection;
use crate::triton_config;
use crate::unreadable::{read_settings, unreadable};
use crate::version::Version;
use graph_files::GraphFiles;
pub use graph_files::{is_ort, stem};

/// The file name of a graph in a folder, without its extension.
const GRAPH: &str = "model";
const SETTINGS: &str = "model-settings.json";

/// A graph that is in no version's folder has this one.
const ONLY_VERSION: &str = "1";

/// The folder of models.
#[derive(Clone, Debug)]
pub struct Repository {
    dir: PathBuf,
    selection: Selection,
}

/// What there is under one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// From the smallest to the largest.
    pub versions: Vec<ModelFiles>,
    /// Why there is none, without a path.
    pub why_none: Option<String>,
    /// Files that are passed over, each with the reason.
    pub passed_over: Vec<String>,
}

/// Where a model version's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFiles {
    /// The folder's or the file's name.
    pub name: String,
    /// The version folder's name, or `"1"`.
    pub version: String,
    /// The ONNX or ORT file; a pipeline has none.
    pub graph: Option<PathBuf>,
    /// `model-settings.json`, where there is one.
    pub settings: Option<PathBuf>,
    /// Triton's `config.pbtxt`, where there is one.
    pub triton: Option<PathBuf>,
}

impl Repository {
    /// The models in `dir`, all of which are selected.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), selection: Selection::All }
    }

    /// The same of which `MODEL_NAME` selects these. Others can still be loaded.
    #[must_use]
    pub fn selecting(self, selection: Selection) -> Self {
        Self { selection, ..self }
    }

    /// Which of them `MODEL_NAME` selects.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The models that `selection` asks for, by name. A name that does not exist is a setting error that lists those that
    /// do.
    pub fn select(&self, selection: &Selection) -> Result<BTreeMap<String, Found>, SettingError> {
        let mut all = self.find().map_err(|error| SettingError::new("MODELS_DIR", unreadable(&self.dir, &error)))?;
        let models = all.extract_if(.., |_, found| !found.versions.is_empty()).collect::<BTreeMap<_, _>>();
        if models.is_empty() {
            return Err(SettingError::new(
                "MODELS_DIR",
                "there is no model: no NAME.onnx, NAME/model.onnx or NAME/VERSION/model.onnx (or .ort)",
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
        let files = GraphFiles::in_folder(&self.dir)?;
        let names: BTreeSet<&String> = files.stems().chain(&files.folders).chain(&files.foreign).collect();
        Ok(names.into_iter().filter_map(|name| Some((name.clone(), self.look_at(name, &files)?))).collect())
    }

    /// What there is under this name; `None` when there is neither a folder nor a file, or it could be no model's name.
    pub fn look_up(&self, name: &str) -> Option<Found> {
        if !is_shown(name) || name.contains('/') {
            return None;
        }
        self.look_at(name, &GraphFiles::in_folder(&self.dir).ok()?)
    }

    fn look_at(&self, name: &str, files: &GraphFiles) -> Option<Found> {
        let folder = files.folders.iter().any(|folder| folder == name);
        let bare = files.graph(name);
        if !folder && bare.is_none() {
            let foreign = files.foreign.iter().find(|file| *file == name)?;
            return Some(Found::none(not_onnx(foreign)));
        }
        // Of a bare file and a folder with the same name the folder can say more.
        let mut found = match (bare, folder) {
            (Some((graph, others)), false) => {
                let passed_over = passed_over(&others, graph, None);
                Found { passed_over, ..Found::one(ModelFiles::new(name, ONLY_VERSION, Some(graph.to_owned()))) }
            }
            (bare, _) => {
                let mut found = look_into(&self.dir.join(name), name);
                let graph = bare.map(|(graph, _)| graph.file_name().unwrap_or_default().to_string_lossy());
                let note = |graph| format!("{graph} is passed over: there is a folder {name}");
                found.passed_over.extend(graph.filter(|_| !found.versions.is_empty()).map(note));
                found
            }
        };
        if !valid_model_name(name) && !found.versions.is_empty() {
            found = Found::none("a model's name is made of at most 128 letters, digits, '.', '_' and '-'");
        }
        Some(found)
    }
}

impl Found {
    fn one(files: ModelFiles) -> Self {
        Self { versions: vec![files], ..Self::default() }
    }

    fn none(why: impl Into<String>) -> Self {
        Self { why_none: Some(why.into()), ..Self::default() }
    }
}

impl ModelFiles {
    fn new(name: &str, version: &str, graph: Option<PathBuf>) -> Self {
        Self { name: name.to_owned(), version: version.to_owned(), graph, settings: None, triton: None }
    }

    fn with(self, settings: Option<PathBuf>, triton: Option<PathBuf>) -> Self {
        Self { settings, triton, ..self }
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
        let json = read_settings(settings)?;
        let json = utf8_json(&json).map_err(|error| format!("{SETTINGS}: {error}"))?;
        serde_json::from_slice(json).map_err(|error| format!("{SETTINGS}: {error}"))
    }

    fn is_pipeline(&self) -> bool {
        self.implementation == PIPELINE
    }
}

fn look_into(folder: &Path, name: &str) -> Found {
    let files = match GraphFiles::in_folder(folder) {
        Ok(files) => files,
        Err(error) => return Found::none(unreadable(folder, &error)),
    };
    let (settings, triton) = (settings_in(folder), file_in(folder, triton_config::FILE));
    let mut versions = BTreeMap::new();
    let mut notes = Vec::new();
    if let Some((graph, others)) = files.graph(GRAPH) {
        notes.extend(passed_over(&others, graph, None));
        let files = ModelFiles::new(name, ONLY_VERSION, Some(graph.to_owned()));
        versions.insert(Version(ONLY_VERSION.to_owned()), files.with(settings.clone(), triton.clone()));
    }
    for version in files.folders.iter().filter(|version| valid_model_name(version)) {
        let own = folder.join(version);
        let own_settings = settings_in(&own);
        // A folder that cannot be read may be one of data as well.
        let within = GraphFiles::in_folder(&own);
        if let Err(error) = &within {
            notes.push(format!("{version}: {}", unreadable(&own, error)));
        }
        let files = if let Some((graph, others)) = within.as_ref().ok().and_then(|within| within.graph(GRAPH)) {
            notes.extend(passed_over(&others, graph, Some(version)));
            let settings = own_settings.or_else(|| settings.clone());
            ModelFiles::new(name, version, Some(graph.to_owned())).with(settings, triton.clone())
        } else if own_settings.as_deref().is_some_and(says_pipeline) {
            ModelFiles::new(name, version, None).with(own_settings, None)
        } else {
            continue;
        };
        if versions.insert(Version(version.clone()), files).is_some() {
            notes.push(format!("the graph in the folder itself is passed over: there is a folder {version}"));
        }
    }
    if versions.is_empty() {
        let found = without_graph(&files, name, settings);
        return Found { passed_over: notes, ..found };
    }
    Found { versions: versions.into_values().collect(), why_none: None, passed_over: notes }
}

/// A folder without a graph: a pipeline, or no model.
fn without_graph(files: &GraphFiles, name: &str, settings: Option<PathBuf>) -> Found {
    match settings.as_deref().map(Outline::read) {
        Some(Ok(said)) if said.is_pipeline() => {
            return Found::one(ModelFiles::new(name, ONLY_VERSION, None).with(settings, None));
        }
        Some(Err(reason)) => return Found::none(format!("its folder has no model.onnx, and {reason}")),
        Some(Ok(_)) | None => {}
    }
    if let Some(other) = files.names().min() {
        return Found::none(format!(
            "its folder has no model.onnx; there is {other:?}, which would have to be renamed"
        ));
    }
    match files.foreign.first() {
        Some(foreign) => Found::none(format!("its folder has no model.onnx; {}", not_onnx(foreign))),
        None => Found::none("its folder has no model.onnx, and no folder of a version that has one"),
    }
}

/// One sentence for each file that holds the same model as `graph`.
fn passed_over(others: &[String], graph: &Path, version: Option<&str>) -> Vec<String> {
    let graph = graph.file_name().unwrap_or_default().to_string_lossy();
    let folder = version.map(|version| format!("{version}/")).unwrap_or_default();
    others.iter().map(|other| format!("{folder}{other} is passed over: there is {folder}{graph}")).collect()
}

fn not_onnx(file: &str) -> String {
    let what = graph_files::foreign(file).unwrap_or("no model");
    format!(
        "{file:?} is {what}: only .onnx and .ort files are served, see docs/BRING_YOUR_MODEL.md for how to export one"
    )
}

fn settings_in(folder: &Path) -> Option<PathBuf> {
    file_in(folder, SETTINGS)
}

fn file_in(folder: &Path, name: &str) -> Option<PathBuf> {
    Some(folder.join(name)).filter(|file| file.is_file())
}

fn says_pipeline(settings: &Path) -> bool {
    Outline::read(settings).is_ok_and(|said| said.is_pipeline())
}

fn is_shown(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.')
}
