//! Model manifest: settings, Triton's configuration and digest of a model version, read before a session opens the graph.

use std::path::PathBuf;

use super::ModelFiles;
use super::digest::{self, ModelDigest};
use super::model_settings::ModelSettings;
use super::read_error::read_settings_file;
use super::triton_config;
use crate::onnx::proto::TensorNames;

/// Settings and digest of one model version.
#[derive(Clone)]
pub struct ModelManifest {
    /// The ONNX file.
    pub graph: PathBuf,
    /// The merged settings.
    pub settings: ModelSettings,
    /// Digest of everything that results depend on.
    pub digest: String,
    /// Size of the graph and its data files.
    pub bytes: u64,
    /// Tensor names of the graph; `None` for an ORT file.
    pub names: Option<TensorNames>,
    /// Parts of the files that are not used.
    pub notes: Vec<String>,
}

/// Reads the files of a model version that has a graph.
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
