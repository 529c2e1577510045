//! Parts of a model's description that are combined from several models.

use contract::{Device, ModelDescription};
use open_inference::ModelState;

use crate::scheduler::PoolState;

/// Joins the notice of a pipeline with those of its steps' models, each once: a result is always shown with all of them.
pub fn combined_notice<'a>(notices: impl Iterator<Item = Option<&'a String>>) -> Option<String> {
    let mut combined: Vec<&str> = Vec::new();
    for notice in notices.flatten() {
        if !combined.iter().any(|other| other.contains(notice.as_str())) {
            combined.push(notice);
        }
    }
    (!combined.is_empty()).then(|| combined.join(" "))
}

/// The devices of several models as one.
pub fn combined_device(first: &Device, others: &[Device]) -> Device {
    let mut combined = first.clone();
    for other in others {
        if !combined.name.split(", ").any(|name| name == other.name) {
            combined.name = format!("{}, {}", combined.name, other.name);
        }
        combined.fallback_reason = combined.fallback_reason.or_else(|| other.fallback_reason.clone());
    }
    combined
}

/// Describes a model by its state alone, for a model whose files have not been read.
pub fn describe_state(name: &str, version: &str, state: PoolState) -> ModelDescription {
    let (state, reason, device) = match state {
        PoolState::Ready(session) => (ModelState::Ready, None, Some(session.device.clone())),
        PoolState::Starting => (ModelState::Loading, Some("a session is being started".to_owned()), None),
        PoolState::Unavailable(error) => (ModelState::Unavailable, Some(error.to_string()), None),
    };
    ModelDescription { device, ..ModelDescription::placeholder(name, version, state, reason) }
}
