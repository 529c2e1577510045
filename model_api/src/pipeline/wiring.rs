use std::sync::Arc;

use contract::{Edge, Pipeline, Source, Step};
use open_inference::{ContentType, Datatype, ModelMetadata, TensorMetadata};

use super::Definition;
use crate::image_input::ImageSpec;
use crate::model::Model;
use crate::signature::Signature;

/// A pipeline, and what its steps make of it.
pub struct Wired {
    /// With all its outputs.
    pub pipeline: Pipeline,
    /// What goes in and what comes out.
    pub signature: Signature,
}

/// Of an input of a step, what an input of the pipeline has to be so that it can feed it.
struct Wanted<'a> {
    /// Which field of the settings says so.
    field: String,
    tensor: &'a TensorMetadata,
    image: Option<&'a ImageSpec>,
}

impl Definition {
    /// Holds the settings against the `models` of the steps, which stand in the steps' order.
    pub fn wire(&self, models: &[Arc<Model>]) -> Result<Wired, String> {
        let told = |reason: String| format!("model-settings.json: {reason}");
        let steps: Vec<_> = self.pipeline.steps.iter().zip(models).collect();
        // In the order in which they are first named.
        let mut inputs: Vec<(&str, Vec<Wanted>)> = Vec::new();
        for (index, (step, model)) in steps.iter().enumerate() {
            for (name, wanted) in feed(step, model, &steps[..index]).map_err(told)? {
                match inputs.iter_mut().find(|(input, _)| *input == name) {
                    Some((_, all)) => all.push(wanted),
                    None => inputs.push((name, vec![wanted])),
                }
            }
        }
        let image = |(name, all): &(&str, Vec<Wanted>)| {
            let for_all = all.iter().all(|wanted| wanted.image.is_some());
            Some(((*name).to_owned(), all.first().filter(|_| for_all)?.image?.clone()))
        };
        let images = inputs.iter().filter_map(image).collect();
        let inputs: Result<Vec<_>, _> = inputs.into_iter().map(|(name, all)| common(name, &all)).collect();
        let wires = self.output_wires(&steps);
        let output = |(index, wire): (usize, &Edge)| {
            let given = given(&wire.from, &steps).map_err(|reason| format!("outputs[{index}].from: {reason}"))?;
            Ok(TensorMetadata { name: wire.name.clone(), ..given.clone() })
        };
        let outputs: Result<Vec<_>, _> = wires.iter().enumerate().map(output).collect();
        let (inputs, outputs) = (inputs.map_err(told)?, outputs.map_err(told)?);
        let signature = Signature::of_steps(&self.settings, &inputs, &outputs, images)?;
        Ok(Wired { pipeline: Pipeline { outputs: wires, ..self.pipeline.clone() }, signature })
    }

    /// All outputs of the last step where the settings name none.
    fn output_wires(&self, steps: &[(&Step, &Arc<Model>)]) -> Vec<Edge> {
        let Some((last, model)) = steps.last().filter(|_| self.pipeline.outputs.is_empty()) else {
            return self.pipeline.outputs.clone();
        };
        let wire = |output: &TensorMetadata| Edge {
            name: output.name.clone(),
            from: Source::Step { step: last.name.clone(), output: output.name.clone() },
        };
        model.metadata.outputs.iter().map(wire).collect()
    }
}

/// Checks that each input of a step's model is fed, by something that fits. Gives what is wanted of the pipeline's inputs.
fn feed<'a>(
    step: &'a Step,
    model: &'a Model,
    before: &[(&Step, &Arc<Model>)],
) -> Result<Vec<(&'a str, Wanted<'a>)>, String> {
    let inputs = &model.metadata.inputs;
    let is_fed = |input: &&TensorMetadata| step.inputs.iter().any(|wire| wire.name == input.name);
    if let Some(missing) = inputs.iter().find(|input| !input.parameters.optional && !is_fed(input)) {
        return Err(format!("step {:?}: inputs: nothing feeds {:?} of {}", step.name, missing.name, step.model));
    }
    let mut wanted = Vec::new();
    for wire in &step.inputs {
        let field = format!("step {:?}: inputs.{}", step.name, wire.name);
        let told = |reason: String| format!("{field}: {reason}");
        let tensor = inputs
            .iter()
            .find(|input| input.name == wire.name)
            .ok_or_else(|| told(format!("{} has no such input; it takes: {}", step.model, names(inputs))))?;
        if let Source::Input(name) = &wire.from {
            let image = model.signature.images.get(&wire.name);
            wanted.push((name.as_str(), Wanted { field, tensor, image }));
        } else {
            let given = given(&wire.from, before).map_err(told)?;
            fit(given, tensor, &model.metadata).map_err(|reason| told(format!("{} {reason}", wire.from)))?;
        }
    }
    Ok(wanted)
}

/// The step's output that `from` names.
fn given<'a>(from: &Source, steps: &[(&Step, &'a Arc<Model>)]) -> Result<&'a TensorMetadata, String> {
    // That there is such a step has been seen when the settings were read.
    let Source::Step { step, output } = from else { return Err(format!("{from} is no step's output")) };
    let model = steps.iter().find(|(other, _)| other.name == *step).map(|(_, model)| *model);
    let model = model.ok_or_else(|| format!("{from}: there is no step {step:?}"))?;
    let outputs = &model.metadata.outputs;
    let found = outputs.iter().find(|other| other.name == *output);
    found.ok_or_else(|| format!("{from}: {} has no such output; it gives: {}", model.name, names(outputs)))
}

/// Whether what a step gives can be what another takes.
fn fit(given: &TensorMetadata, wanted: &TensorMetadata, model: &ModelMetadata) -> Result<(), String> {
    let pictures = given.datatype == Datatype::Bytes && wanted.takes_images();
    if given.datatype != wanted.datatype && !pictures {
        return Err(format!("is {}, and {} takes {}", given.datatype, model.name, wanted.datatype));
    }
    let shape = if pictures { &wanted.shape[..wanted.shape.len().min(1)] } else { &wanted.shape[..] };
    meet(&given.shape, shape)
        .map(drop)
        .ok_or_else(|| format!("has the shape {:?}, and {} takes {shape:?} (-1: any length)", given.shape, model.name))
}

/// What an input of the pipeline is, so that it can feed all that name it.
fn common(name: &str, all: &[Wanted<'_>]) -> Result<TensorMetadata, String> {
    let mut common = TensorMetadata { name: name.to_owned(), ..all[0].tensor.clone() };
    if let Some(pictures) = only_pictures(all) {
        return Ok(TensorMetadata { name: common.name, ..pictures });
    }
    for Wanted { field, tensor, .. } in &all[1..] {
        let contradicts = |what: &str| Err(format!("{field}: {name:?} cannot feed it and {}: {what}", all[0].field));
        if tensor.datatype != common.datatype {
            return contradicts(&format!("it takes {}, and that {}", tensor.datatype, common.datatype));
        }
        match meet(&common.shape, &tensor.shape) {
            Some(shape) => common.shape = shape,
            None => return contradicts(&format!("it takes {:?}, and that {:?}", tensor.shape, common.shape)),
        }
        common.parameters.allow_empty &= tensor.parameters.allow_empty;
        common.parameters.optional &= tensor.parameters.optional;
    }
    // A picture is for all of them or for none.
    if common.takes_images() && !all.iter().all(|wanted| wanted.tensor.takes_images()) {
        common.parameters.content_type = None;
    }
    Ok(common)
}

/// Models that see a picture in different sizes can have no tensor in common, but the file: each reads it in its own way.
/// `None` where there is no need for that, or not all of them read files.
fn only_pictures(all: &[Wanted<'_>]) -> Option<TensorMetadata> {
    let first = all[0].tensor;
    let differs = |wanted: &Wanted| {
        wanted.tensor.datatype != first.datatype || meet(&wanted.tensor.shape, &first.shape).is_none()
    };
    if !all.iter().any(differs) || !all.iter().all(|wanted| wanted.tensor.takes_images()) {
        return None;
    }
    let batch = all.iter().filter_map(|wanted| wanted.tensor.shape.first().copied()).max().unwrap_or(-1);
    let mut pictures = TensorMetadata::new("", Datatype::Bytes, &[batch]);
    pictures.parameters.content_type = Some(ContentType::Image);
    Some(pictures)
}

/// The shape of what is of both shapes; `None` where nothing can be. A graph that says nothing of a shape has none.
fn meet(one: &[i64], other: &[i64]) -> Option<Vec<i64>> {
    if one.is_empty() || other.is_empty() {
        return Some(if one.is_empty() { other } else { one }.to_vec());
    }
    let length = |(&one, &other): (&i64, &i64)| match (one, other) {
        (-1, length) | (length, -1) => Some(length),
        (one, other) => (one == other).then_some(one),
    };
    if one.len() != other.len() {
        return None;
    }
    one.iter().zip(other).map(length).collect()
}

fn names(tensors: &[TensorMetadata]) -> String {
    tensors.iter().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_meet_where_a_tensor_could_have_both() {
        assert_eq!(meet(&[-1, 28, 28, 1], &[4, -1, 28, 1]), Some(vec![4, 28, 28, 1]));
        assert_eq!(meet(&[], &[-1, 3]), Some(vec![-1, 3]));
        assert_eq!(meet(&[-1, 3], &[-1, 4]), None);
        assert_eq!(meet(&[-1, 3], &[-1, 3, 1]), None);
    }
}
