//! Pipeline resolution: matches each pipeline with the models that its steps name now.
//!
//! It runs after every update of the registry. A pipeline whose steps fit is active. One whose step has got another model
//! becomes another pipeline, with another digest. One whose step was unloaded waits until the step is back.

use std::sync::Arc;

use contract::{ModelDescription, Step};
use open_inference::ModelState;
use tracing::{info, warn};

use super::entry::{ActiveVersion, LoadState, ModelEntries, ModelEntry, Unready, VersionEntry, join_names};
use crate::model::Model;
use crate::model::pipeline::PipelineDefinition;
use crate::repository::version::Version;

/// Resolves all pipelines against the models as they are now.
pub fn reresolve_all(entries: &mut ModelEntries) {
    let pipelines_of = |(name, entry): (&String, &ModelEntry)| {
        let pipelines = entry.versions.iter().filter(|(_, version)| definitions(version).next().is_some());
        pipelines.map(|(version, _)| (name.clone(), version.clone())).collect::<Vec<_>>()
    };
    let pipelines: Vec<_> = entries.iter().flat_map(pipelines_of).collect();
    // A pipeline may be a step of another, so a round can change the result of the next. There are at most as many such
    // rounds as pipelines.
    for _ in 0..pipelines.len() {
        let changes = pipelines.iter().filter(|(name, version)| reresolve(entries, name, version)).count();
        if changes == 0 {
            break;
        }
    }
}

/// Resolves one pipeline. Returns whether it has changed.
fn reresolve(entries: &mut ModelEntries, name: &str, version: &Version) -> bool {
    let Some(entry) = entries.get(name).and_then(|entry| entry.versions.get(version)) else { return false };
    let before = entry.active.as_ref().map(|active| Arc::clone(&active.model));
    if let Some(definition) = waiting_definition(entry).cloned() {
        let cycle = find_cycle(entries, name, &definition);
        match cycle.map_or_else(|| resolve(entries, &definition), Err) {
            Ok(model) => return update(entries, name, version, |entry| *entry = activate(model)),
            Err(unready) => {
                let waiting = LoadState::WaitingForSteps { definition, unready };
                update(entries, name, version, |entry| entry.pending = Some(waiting));
            }
        }
    }
    let Some((before, steps)) = before.as_ref().and_then(|model| Some((model, model.steps()?))) else { return false };
    match resolve(entries, &steps.definition) {
        Ok(model) if is_same(before, &model) => false,
        Ok(model) => update(entries, name, version, |entry| entry.active = activate(model).active),
        Err(unready) => {
            warn!(model = name, version = version.0, reason = unready.reason, "pipeline is no longer available");
            let definition = Arc::clone(&steps.definition);
            update(entries, name, version, |entry| {
                entry.active = None;
                entry.pending.get_or_insert(LoadState::WaitingForSteps { definition, unready });
            })
        }
    }
}

fn update(entries: &mut ModelEntries, name: &str, version: &Version, change: impl FnOnce(&mut VersionEntry)) -> bool {
    let Some(entry) = entries.get_mut(name) else { return false };
    let Some(version) = entry.versions.get_mut(version) else { return false };
    change(version);
    // A pipeline that has been ready does not make the service unready when a step is unloaded.
    if version.active.is_some() {
        entry.required_at_start = entry.blocks_readiness();
    }
    true
}

fn activate(model: Model) -> VersionEntry {
    info!(model = model.name, version = model.version, digest = model.digest, "pipeline loaded");
    let files = model.steps().map(|steps| steps.definition.files.clone());
    VersionEntry { active: files.map(|files| ActiveVersion { model: Arc::new(model), files }), pending: None }
}

/// Builds the pipeline from the models that its steps name now.
fn resolve(entries: &ModelEntries, definition: &Arc<PipelineDefinition>) -> Result<Model, Unready> {
    let steps = &definition.pipeline.steps;
    let models = steps.iter().map(|step| find_step_model(entries, step)).collect::<Result<Vec<_>, _>>()?;
    Model::from_steps(definition, models).map_err(|reason| Unready { reason, is_transient: false })
}

/// The model that a step names.
fn find_step_model(entries: &ModelEntries, step: &Step) -> Result<Arc<Model>, Unready> {
    let unready = |field: &str, reason: String, is_transient: bool| {
        Err(Unready { reason: format!("model-settings.json: step {:?}: {field}: {reason}", step.name), is_transient })
    };
    let Some(entry) = entries.get(&step.model).filter(|entry| !entry.versions.is_empty()) else {
        return unready("model", format!("{} is not loaded", step.model), false);
    };
    let named = step.version.clone().map(Version);
    let version = named.as_ref().or_else(|| entry.default_version());
    let Some((version, version_entry)) = version.and_then(|version| entry.versions.get_key_value(version)) else {
        let available = join_names(entry.versions.keys().map(|version| &*version.0));
        return unready(
            "version",
            format!(
                "{} has no version {:?}; available versions: {available}",
                step.model,
                step.version.as_deref().unwrap_or_default()
            ),
            false,
        );
    };
    if let Some(active) = &version_entry.active {
        return Ok(Arc::clone(&active.model));
    }
    let ModelDescription { state, reason, .. } = version_entry.describe(&step.model, version);
    let reason = format!("{} is not available: {}", step.model, reason.unwrap_or_default());
    unready("model", reason, state == ModelState::Loading)
}

/// The cycle that a pipeline would close: one of its steps is a pipeline that has it as a step, directly or not.
fn find_cycle(entries: &ModelEntries, name: &str, definition: &PipelineDefinition) -> Option<Unready> {
    definition.pipeline.steps.iter().find_map(|step| {
        let path = path_to(entries, name, &step.model, &mut vec![name])?;
        let reason =
            format!("model-settings.json: step {:?}: model: the pipelines form a cycle: {name} → {path}", step.name);
        Some(Unready { reason, is_transient: false })
    })
}

/// The path over pipeline steps from the model `from` to the model `to`.
fn path_to<'a>(entries: &'a ModelEntries, to: &str, from: &'a str, visited: &mut Vec<&'a str>) -> Option<String> {
    if from == to {
        return Some(to.to_owned());
    }
    if visited.contains(&from) {
        return None;
    }
    visited.push(from);
    let versions = entries.get(from).into_iter().flat_map(|entry| entry.versions.values());
    let mut steps = versions.flat_map(definitions).flat_map(|definition| &definition.pipeline.steps);
    steps.find_map(|step| Some(format!("{from} → {}", path_to(entries, to, &step.model, visited)?)))
}

/// The pipeline that waits for its steps.
fn waiting_definition(version: &VersionEntry) -> Option<&Arc<PipelineDefinition>> {
    match &version.pending {
        Some(LoadState::WaitingForSteps { definition, .. }) => Some(definition),
        _ => None,
    }
}

/// The waiting and the active pipeline.
fn definitions(version: &VersionEntry) -> impl Iterator<Item = &Arc<PipelineDefinition>> {
    let active = version.active.as_ref().and_then(|active| active.model.steps());
    waiting_definition(version).into_iter().chain(active.map(|steps| &steps.definition))
}

fn is_same(one: &Model, other: &Model) -> bool {
    let models = |model: &Model| model.steps().map(|steps| steps.models.iter().map(Arc::as_ptr).collect::<Vec<_>>());
    one.digest == other.digest && models(one) == models(other)
}
