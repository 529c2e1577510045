//! What a model version's files say before a session has opened the graph: settings, Triton's configuration, and the digest of
//! everything that results depend on.

use std::path::PathBuf;

use super::ModelFiles;
use super::digest::{self, ModelDigest};
use super::model_settings::ModelSettings;
use super::read_error::read_settings_file;
use super::triton_config;
use crate::onnx::proto::TensorNames;

/// What a model version's files say.
#[derive(Clone)]
pub struct ModelManifest {
    /// The ONNX file.
    pub graph: PathBuf,
    /// What the settings file says.
    pub settings: ModelSettings,
    /// Of everything that the answers depend on.
    pub digest: String,
    /// Of the graph and its data files.
    pub bytes: u64,
    /// The graph's, where its file shows them.
    pub names: Option<TensorNames>,
    /// What of the files is not used.
    pub notes: Vec<String>,
}

/// The settings, and the digest of everything that the model's answers depend on.
pub fn read_manifest(files: &ModelFiles) -> Result<ModelManifest, String> {
    let graph = files.graph.clone().ok_or("there is no graph")?;
    let json = files.settings.as_deref().map(read_settings_file).transpose()?;
    let settings = match &json {
        Some(json) => ModelSettings::from_json(json, &files.name)?,
        None => ModelSettings::default(),
    };
    if settings.is_pipeline() || !settings.steps.is_empty() {
        return Err(
            "model-settings.json: steps: a pipeline has no graph of its own, and there is a model.onnx".to_owned()
        );
    }
    let triton = files.triton.as_ref().map(|path| triton_config::read(path, &files.name)).transpose()?;
    let Some(triton_config::ParsedConfig { config, files: others }) = triton else {
        let ModelDigest { digest, bytes, names } = digest::compute(&graph, json.as_deref(), &[])?;
        return Ok(ModelManifest { graph, settings, digest, bytes, names, notes: Vec::new() });
    };
    let ModelDigest { digest, bytes, names } = digest::compute(&graph, json.as_deref(), &others)?;
    let notes = config.unused_note().into_iter().collect();
    Ok(ModelManifest { graph, settings: settings.with_triton_defaults(config)?, digest, bytes, names, notes })
}
