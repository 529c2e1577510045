//! Model repository: scans `MODELS_DIR` for models and versions.
//!
//! ```text
//! mnist.onnx                     a bare file
//! mnist/model.onnx               a folder, which may also hold mnist/model-settings.json
//! mnist/1/model.onnx             versions, by number or name: all are served, the largest is the default
//! mnist/1/model-settings.json    settings of this version alone, in place of mnist/model-settings.json
//! mnist/config.pbtxt             Triton's settings of all versions; model-settings.json overrides each field
//! digits/model-settings.json     without a graph: a pipeline, if `implementation` is `pipeline`
//! ```
//!
//! The extension may be in any case, and `.ort` is ONNX Runtime's own format. A graph in the model's folder itself is the
//! version `1`, unless a folder has that name. Names that begin with a dot are ignored, so that a folder can be filled
//! under such a name and then renamed.

mod access;
mod changes;
pub(crate) mod digest;
mod fingerprint;
mod graph_files;
pub mod manifest;
pub mod model_settings;
pub mod read_error;
pub mod triton_config;
pub mod version;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use contract::valid_model_name;
use open_inference::utf8_json;
use serde::Deserialize;
use serde_json::Value;
use service::settings::SettingError;

pub use access::RepositoryAccess;
pub use changes::ChangeDetector;
pub use fingerprint::Snapshot;
use graph_files::GraphFiles;
pub use graph_files::{graph_stem, is_ort};
use model_settings::PIPELINE;
use read_error::{describe_read_error, read_settings_file};
use version::Version;

/// The file name of a graph in a folder, without its extension.
const GRAPH: &str = "model";
const SETTINGS: &str = "model-settings.json";

/// The version of a graph that is not in a version folder.
const DEFAULT_VERSION: &str = "1";

/// `MODEL_NAME`: which models are served from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// `all`: every model in the repository.
    All,
    /// A name, or several with commas.
    Names(Vec<String>),
}

impl Selection {
    /// Whether it contains this model.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Names(names) => names.iter().any(|selected| selected == name),
        }
    }
}

/// The folder of models.
#[derive(Clone, Debug)]
pub struct Repository {
    dir: PathBuf,
    selection: Selection,
}

/// The files under one name: a model with its versions, or the reason why they are no model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepositoryEntry {
    /// From the smallest to the largest.
    pub versions: Vec<ModelFiles>,
    /// Why there is no version. The text holds no path.
    pub rejection: Option<String>,
    /// Files that are not used, one clause each with the reason.
    pub skipped: Vec<String>,
}

/// Paths of the files of one model version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFiles {
    /// The name of the folder or of the bare file.
    pub name: String,
    /// The name of the version folder, or `"1"`.
    pub version: String,
    /// The ONNX or ORT file; absent for a pipeline.
    pub graph: Option<PathBuf>,
    /// `model-settings.json`, where it exists.
    pub settings: Option<PathBuf>,
    /// Triton's `config.pbtxt`, where it exists.
    pub triton: Option<PathBuf>,
}

impl Repository {
    /// All models in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), selection: Selection::All }
    }

    /// The same repository with another `MODEL_NAME`. Models outside the selection can still be loaded on request.
    #[must_use]
    pub fn with_selection(self, selection: Selection) -> Self {
        Self { selection, ..self }
    }

    /// The value of `MODEL_NAME`.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The selected models by name, and the models of their pipeline steps.
    ///
    /// # Errors
    /// The folder cannot be read or holds no model, or a selected name does not exist. The error lists the existing names.
    pub fn select_models(&self, selection: &Selection) -> Result<BTreeMap<String, RepositoryEntry>, SettingError> {
        let unreadable = |error| SettingError::new("MODELS_DIR", describe_read_error(&self.dir, &error));
        let mut all = self.scan().map_err(unreadable)?;
        let models = all.extract_if(.., |_, entry| !entry.versions.is_empty()).collect::<BTreeMap<_, _>>();
        if models.is_empty() {
            return Err(SettingError::new(
                "MODELS_DIR",
                "there is no model: no NAME.onnx, NAME/model.onnx or NAME/VERSION/model.onnx (or .ort)",
            ));
        }
        let Selection::Names(names) = selection else { return Ok(models) };
        if let Some(unknown) = names.iter().find(|name| !models.contains_key(*name)) {
            let rejection = all.remove(unknown).and_then(|entry| entry.rejection);
            let rejection = rejection.map(|reason| format!(", as {reason}")).unwrap_or_default();
            let available = models.into_keys().collect::<Vec<_>>().join(", ");
            return Err(SettingError::new(
                "MODEL_NAME",
                format!("there is no model {unknown:?}{rejection}; available models: {available}"),
            ));
        }
        // A pipeline cannot run without the models of its steps.
        let mut wanted: BTreeSet<String> = names.iter().cloned().collect();
        let mut unread: Vec<String> = names.clone();
        while let Some(name) = unread.pop() {
            let versions = models.get(&name).into_iter().flat_map(|entry| &entry.versions);
            let steps = versions.flat_map(ModelFiles::step_models);
            unread.extend(steps.filter(|step| wanted.insert(step.clone())));
        }
        Ok(models.into_iter().filter(|(name, _)| wanted.contains(name)).collect())
    }

    /// Scans the folder for models and for files and folders that look like models, by name.
    pub fn scan(&self) -> io::Result<BTreeMap<String, RepositoryEntry>> {
        let files = GraphFiles::in_folder(&self.dir)?;
        let names: BTreeSet<&String> = files.stems().chain(&files.folders).chain(&files.foreign).collect();
        Ok(names.into_iter().filter_map(|name| Some((name.clone(), self.inspect(name, &files)?))).collect())
    }

    /// The entry of this name; `None` when there is neither a folder nor a file, or when the name cannot be a model's.
    pub fn find(&self, name: &str) -> Option<RepositoryEntry> {
        if !is_visible(name) || name.contains('/') {
            return None;
        }
        self.inspect(name, &GraphFiles::in_folder(&self.dir).ok()?)
    }

    fn inspect(&self, name: &str, files: &GraphFiles) -> Option<RepositoryEntry> {
        let folder = files.folders.iter().any(|folder| folder == name);
        let bare = files.graph(name);
        if !folder && bare.is_none() {
            let foreign = files.foreign.iter().find(|file| *file == name)?;
            return Some(RepositoryEntry::rejected(describe_foreign_file(foreign)));
        }
        // A folder wins over a bare file of the same name, since it can hold settings.
        let mut entry = match (bare, folder) {
            (Some((graph, others)), false) => {
                let skipped = skipped_graphs(&others, graph, None);
                let files = ModelFiles::new(name, DEFAULT_VERSION, Some(graph.to_owned()));
                RepositoryEntry { skipped, ..RepositoryEntry::single(files) }
            }
            (bare, _) => {
                let mut entry = scan_model_folder(&self.dir.join(name), name);
                let graph = bare.map(|(graph, _)| graph.file_name().unwrap_or_default().to_string_lossy());
                let note = |graph| format!("{graph} is skipped: the folder {name} has precedence");
                entry.skipped.extend(graph.filter(|_| !entry.versions.is_empty()).map(note));
                entry
            }
        };
        if !valid_model_name(name) && !entry.versions.is_empty() {
            let reason = "a model's name consists of at most 128 letters, digits, '.', '_' and '-'";
            entry = RepositoryEntry::rejected(reason);
        }
        Some(entry)
    }
}

impl RepositoryEntry {
    fn single(files: ModelFiles) -> Self {
        Self { versions: vec![files], ..Self::default() }
    }

    fn rejected(reason: impl Into<String>) -> Self {
        Self { rejection: Some(reason.into()), ..Self::default() }
    }
}

impl ModelFiles {
    fn new(name: &str, version: &str, graph: Option<PathBuf>) -> Self {
        Self { name: name.to_owned(), version: version.to_owned(), graph, settings: None, triton: None }
    }

    fn with_settings(self, settings: Option<PathBuf>, triton: Option<PathBuf>) -> Self {
        Self { settings, triton, ..self }
    }

    /// The models that a pipeline's steps name.
    fn step_models(&self) -> Vec<String> {
        let settings = self.settings.as_deref().filter(|_| self.graph.is_none());
        let summary = settings.and_then(|settings| SettingsSummary::read(settings).ok()).unwrap_or_default();
        summary.steps.iter().filter_map(|step| Some(step.get("model")?.as_str()?.to_owned())).collect()
    }
}

/// The fields of a settings file that show whether it is a pipeline. Errors in other fields are reported when it is loaded.
#[derive(Default, Deserialize)]
#[serde(default)]
struct SettingsSummary {
    implementation: Value,
    steps: Vec<Value>,
}

impl SettingsSummary {
    fn read(settings: &Path) -> Result<Self, String> {
        let json = read_settings_file(settings)?;
        let json = utf8_json(&json).map_err(|error| format!("{SETTINGS}: {error}"))?;
        serde_json::from_slice(json).map_err(|error| format!("{SETTINGS}: {error}"))
    }

    fn is_pipeline(&self) -> bool {
        self.implementation == PIPELINE
    }
}

fn scan_model_folder(folder: &Path, name: &str) -> RepositoryEntry {
    let files = match GraphFiles::in_folder(folder) {
        Ok(files) => files,
        Err(error) => return RepositoryEntry::rejected(describe_read_error(folder, &error)),
    };
    let (settings, triton) = (settings_in(folder), file_in(folder, triton_config::FILE));
    let mut versions = BTreeMap::new();
    let mut skipped = Vec::new();
    if let Some((graph, others)) = files.graph(GRAPH) {
        skipped.extend(skipped_graphs(&others, graph, None));
        let files = ModelFiles::new(name, DEFAULT_VERSION, Some(graph.to_owned()));
        versions.insert(Version(DEFAULT_VERSION.to_owned()), files.with_settings(settings.clone(), triton.clone()));
    }
    for version in files.folders.iter().filter(|version| valid_model_name(version)) {
        let own = folder.join(version);
        let own_settings = settings_in(&own);
        let own_files = GraphFiles::in_folder(&own);
        // Not an error: a folder that cannot be read may hold other data.
        if let Err(error) = &own_files {
            skipped.push(format!("{version}: {}", describe_read_error(&own, error)));
        }
        let files = if let Some((graph, others)) = own_files.as_ref().ok().and_then(|files| files.graph(GRAPH)) {
            skipped.extend(skipped_graphs(&others, graph, Some(version)));
            let settings = own_settings.or_else(|| settings.clone());
            ModelFiles::new(name, version, Some(graph.to_owned())).with_settings(settings, triton.clone())
        } else if own_settings.as_deref().is_some_and(is_pipeline_settings) {
            ModelFiles::new(name, version, None).with_settings(own_settings, None)
        } else {
            continue;
        };
        if versions.insert(Version(version.clone()), files).is_some() {
            skipped.push(format!(
                "the graph in the folder itself is skipped: the version folder {version} has precedence"
            ));
        }
    }
    if versions.is_empty() {
        let entry = folder_without_graph(&files, name, settings);
        return RepositoryEntry { skipped, ..entry };
    }
    RepositoryEntry { versions: versions.into_values().collect(), rejection: None, skipped }
}

/// A folder without a graph: a pipeline, or no model.
fn folder_without_graph(files: &GraphFiles, name: &str, settings: Option<PathBuf>) -> RepositoryEntry {
    match settings.as_deref().map(SettingsSummary::read) {
        Some(Ok(summary)) if summary.is_pipeline() => {
            let files = ModelFiles::new(name, DEFAULT_VERSION, None).with_settings(settings, None);
            return RepositoryEntry::single(files);
        }
        Some(Err(reason)) => {
            return RepositoryEntry::rejected(format!("its folder has no model.onnx, and {reason}"));
        }
        Some(Ok(_)) | None => {}
    }
    if let Some(other) = files.names().min() {
        return RepositoryEntry::rejected(format!("its folder has no model.onnx; rename {other:?} if it is the model"));
    }
    match files.foreign.first() {
        Some(foreign) => {
            RepositoryEntry::rejected(format!("its folder has no model.onnx; {}", describe_foreign_file(foreign)))
        }
        None => RepositoryEntry::rejected("its folder has no model.onnx, and no version folder that has one"),
    }
}

/// One clause for each other file that holds the same model as `graph`.
fn skipped_graphs(others: &[String], graph: &Path, version: Option<&str>) -> Vec<String> {
    let graph = graph.file_name().unwrap_or_default().to_string_lossy();
    let folder = version.map(|version| format!("{version}/")).unwrap_or_default();
    others.iter().map(|other| format!("{folder}{other} is skipped: {folder}{graph} has precedence")).collect()
}

fn describe_foreign_file(file: &str) -> String {
    let what = graph_files::foreign_format(file).unwrap_or("no model");
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

fn is_pipeline_settings(settings: &Path) -> bool {
    SettingsSummary::read(settings).is_ok_and(|summary| summary.is_pipeline())
}

fn is_visible(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.')
}
