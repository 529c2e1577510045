//! Which models and versions there are in `MODELS_DIR`:
//!
//! ```text
//! mnist.onnx              a bare file
//! mnist/model.onnx        with room for mnist/model-settings.json
//! mnist/1/model.onnx      versions; the largest is served, whole numbers compared as numbers
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use contract::valid_model_name;
use service::settings::SettingError;

use crate::settings::Selection;

const GRAPH: &str = "model.onnx";
const SETTINGS: &str = "model-settings.json";

/// A model without version folders has this one.
const ONLY_VERSION: &str = "1";

/// Where a model's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFiles {
    /// The folder's or the file's name.
    pub name: String,
    /// The version folder's name, or `"1"`.
    pub version: String,
    /// The ONNX file.
    pub graph: PathBuf,
    /// `model-settings.json`, where there is one.
    pub settings: Option<PathBuf>,
}

/// The models that `selection` asks for, by name. A name that does not exist is a setting error that lists those that do.
pub fn select(dir: &Path, selection: &Selection) -> Result<BTreeMap<String, ModelFiles>, SettingError> {
    let mut found = find(dir)?;
    if found.is_empty() {
        return Err(SettingError::new(
            "MODELS_DIR",
            "there is no model: no NAME.onnx, NAME/model.onnx or NAME/VERSION/model.onnx",
        ));
    }
    if let Selection::Names(names) = selection {
        if let Some(unknown) = names.iter().find(|name| !found.contains_key(*name)) {
            let there_are = found.into_keys().collect::<Vec<_>>().join(", ");
            return Err(SettingError::new(
                "MODEL_NAME",
                format!("there is no model {unknown:?}; there are: {there_are}"),
            ));
        }
        found.retain(|name, _| names.contains(name));
    }
    Ok(found)
}

/// Every model there is, by name. What has no valid name or no graph is no model.
pub fn find(dir: &Path) -> Result<BTreeMap<String, ModelFiles>, SettingError> {
    let unreadable = |error: io::Error| SettingError::new("MODELS_DIR", format!("cannot be read: {error}"));
    let mut models = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let model = if path.is_dir() { folder(&path) } else { bare_file(&path) };
        let Some(model) = model.filter(|model| valid_model_name(&model.name)) else { continue };
        // Of a bare file and a folder with the same name the folder can say more.
        if path.is_dir() || !models.contains_key(&model.name) {
            models.insert(model.name.clone(), model);
        }
    }
    Ok(models)
}

fn bare_file(path: &Path) -> Option<ModelFiles> {
    let name = path.file_name()?.to_str()?.strip_suffix(".onnx")?.to_owned();
    Some(ModelFiles { name, version: ONLY_VERSION.to_owned(), graph: path.to_owned(), settings: None })
}

fn folder(path: &Path) -> Option<ModelFiles> {
    let name = path.file_name()?.to_str()?.to_owned();
    let (version, graph) = match path.join(GRAPH) {
        graph if graph.is_file() => (ONLY_VERSION.to_owned(), graph),
        _ => largest_version(path)?,
    };
    let settings = Some(path.join(SETTINGS)).filter(|settings| settings.is_file());
    Some(ModelFiles { name, version, graph, settings })
}

fn largest_version(path: &Path) -> Option<(String, PathBuf)> {
    fs::read_dir(path)
        .ok()?
        .filter_map(|entry| {
            let version = entry.ok()?.file_name().into_string().ok()?;
            let graph = path.join(&version).join(GRAPH);
            (valid_model_name(&version) && graph.is_file()).then_some((version, graph))
        })
        .max_by(|(left, _), (right, _)| version_key(left).cmp(&version_key(right)))
}

/// Whole numbers come after everything else and are compared as numbers.
fn version_key(version: &str) -> (Option<u64>, &str) {
    (version.parse().ok(), version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_compared_as_numbers() {
        let mut versions = ["10", "v2", "9", "2024-06", "v10"];
        versions.sort_by(|left, right| version_key(left).cmp(&version_key(right)));
        assert_eq!(versions, ["2024-06", "v10", "v2", "9", "10"]);
    }
}
