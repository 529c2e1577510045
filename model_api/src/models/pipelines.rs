//! Pipelines are what their steps' models make of them, so they are looked at anew whenever a model comes, changes or goes:
//! one whose steps fit is served, one whose step has another model now is another pipeline, with another digest, and one whose
//! step has gone waits until it is back.

use std::sync::Arc;

use contract::{ModelDescription, Step};
use open_inference::ModelState;
use tracing::{info, warn};

use crate::model::Model;
use crate::pipeline::Definition;
use crate::shelf::{Next, Place, Served, Shelf, Slot, Unready};
use crate::version::Version;

/// Brings all pipelines up to the models as they are now.
pub fn settle(shelf: &mut Shelf) {
    let of_place = |(name, place): (&String, &Place)| {
        let pipelines = place.slots.iter().filter(|(_, slot)| definitions(slot).next().is_some());
        pipelines.map(|(version, _)| (name.clone(), version.clone())).collect::<Vec<_>>()
    };
    let pipelines: Vec<_> = shelf.iter().flat_map(of_place).collect();
    // One may be a step of another: a round may change what the next one finds, but not more often than there are pipelines.
    for _ in 0..pipelines.len() {
        let changes = pipelines.iter().filter(|(name, version)| settle_one(shelf, name, version)).count();
        if changes == 0 {
            break;
        }
    }
}

/// Whether it is another one now.
fn settle_one(shelf: &mut Shelf, name: &str, version: &Version) -> bool {
    let Some(slot) = shelf.get(name).and_then(|place| place.slots.get(version)) else { return false };
    let before = slot.served.as_ref().map(|served| Arc::clone(&served.model));
    if let Some(definition) = candidate(slot).cloned() {
        let leads_back = leads_back(shelf, name, &definition);
        match leads_back.map_or_else(|| resolve(shelf, &definition), Err) {
            Ok(model) => return put(shelf, name, version, |slot| *slot = serving(model)),
            Err(unready) => {
                put(shelf, name, version, |slot| slot.next = Some(Next::Waiting { definition, unready }));
            }
        }
    }
    let Some((before, steps)) = before.as_ref().and_then(|model| Some((model, model.steps()?))) else { return false };
    match resolve(shelf, &steps.definition) {
        Ok(model) if is_same(before, &model) => false,
        Ok(model) => put(shelf, name, version, |slot| slot.served = serving(model).served),
        Err(unready) => {
            warn!(model = name, version = version.0, reason = unready.reason, "a pipeline cannot be asked any more");
            let definition = Arc::clone(&steps.definition);
            put(shelf, name, version, |slot| {
                slot.served = None;
                slot.next.get_or_insert(Next::Waiting { definition, unready });
            })
        }
    }
}

fn put(shelf: &mut Shelf, name: &str, version: &Version, change: impl FnOnce(&mut Slot)) -> bool {
    let Some(place) = shelf.get_mut(name) else { return false };
    let Some(slot) = place.slots.get_mut(version) else { return false };
    change(slot);
    // One that has been ready does not take the service back when a step goes.
    if slot.served.is_some() {
        place.required = place.is_awaited();
    }
    true
}

fn serving(model: Model) -> Slot {
    info!(model = model.name, version = model.version, digest = model.digest, "a pipeline is served");
    let files = model.steps().map(|steps| steps.definition.files.clone());
    Slot { served: files.map(|files| Served { model: Arc::new(model), files }), next: None }
}

/// The pipeline with the models that its steps name now.
fn resolve(shelf: &Shelf, definition: &Arc<Definition>) -> Result<Model, Unready> {
    let steps = &definition.pipeline.steps;
    let models = steps.iter().map(|step| find(shelf, step)).collect::<Result<Vec<_>, _>>()?;
    Model::of_steps(definition, models).map_err(|reason| Unready { reason, waits: false })
}

/// The model that a step names.
fn find(shelf: &Shelf, step: &Step) -> Result<Arc<Model>, Unready> {
    let unready = |field: &str, reason: String, waits: bool| {
        Err(Unready { reason: format!("model-settings.json: step {:?}: {field}: {reason}", step.name), waits })
    };
    let Some(place) = shelf.get(&step.model).filter(|place| !place.slots.is_empty()) else {
        return unready("model", format!("{} is not loaded", step.model), false);
    };
    let named = step.version.clone().map(Version);
    let version = named.as_ref().or_else(|| place.default_version());
    let Some((version, slot)) = version.and_then(|version| place.slots.get_key_value(version)) else {
        let there_are = super::list(place.slots.keys().map(|version| &*version.0));
        return unready("version", format!("{} has no such version; there are: {there_are}", step.model), false);
    };
    if let Some(served) = &slot.served {
        return Ok(Arc::clone(&served.model));
    }
    let ModelDescription { state, reason, .. } = slot.describe(&step.model, version);
    let reason = format!("{} cannot be asked now: {}", step.model, reason.unwrap_or_default());
    unready("model", reason, state == ModelState::Loading)
}

/// Why a pipeline cannot be one: its steps are pipelines that it is itself a step of.
fn leads_back(shelf: &Shelf, name: &str, definition: &Definition) -> Option<Unready> {
    definition.pipeline.steps.iter().find_map(|step| {
        let way = way_to(shelf, name, &step.model, &mut vec![name])?;
        let reason = format!("model-settings.json: step {:?}: model: it leads back: {name} → {way}", step.name);
        Some(Unready { reason, waits: false })
    })
}

/// From the model `from` over steps to the model `to`.
fn way_to<'a>(shelf: &'a Shelf, to: &str, from: &'a str, seen: &mut Vec<&'a str>) -> Option<String> {
    if from == to {
        return Some(to.to_owned());
    }
    if seen.contains(&from) {
        return None;
    }
    seen.push(from);
    let definitions = shelf.get(from).into_iter().flat_map(|place| place.slots.values()).flat_map(definitions);
    let mut steps = definitions.flat_map(|definition| &definition.pipeline.steps);
    steps.find_map(|step| Some(format!("{from} → {}", way_to(shelf, to, &step.model, seen)?)))
}

/// What waits to be one.
fn candidate(slot: &Slot) -> Option<&Arc<Definition>> {
    match &slot.next {
        Some(Next::Waiting { definition, .. }) => Some(definition),
        _ => None,
    }
}

/// What is one, and what waits to be.
fn definitions(slot: &Slot) -> impl Iterator<Item = &Arc<Definition>> {
    let served = slot.served.as_ref().and_then(|served| served.model.steps());
    candidate(slot).into_iter().chain(served.map(|steps| &steps.definition))
}

fn is_same(one: &Model, other: &Model) -> bool {
    let models = |model: &Model| model.steps().map(|steps| steps.models.iter().map(Arc::as_ptr).collect::<Vec<_>>());
    one.digest == other.digest && models(one) == models(other)
}
