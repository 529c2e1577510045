//! Pipeline validation: checks the edges of a pipeline against the inputs and outputs of its steps' models.

use contract::{Edge, Pipeline, Source, Step};
use open_inference::{ContentType, Datatype, ModelMetadata, TensorMetadata};

use super::PipelineDefinition;
use crate::model::signature::Signature;
use crate::preprocessing::ImageSpec;

/// The parts of a step's model that validation needs.
pub struct StepModel<'a> {
    /// The model's name.
    pub name: &'a str,
    /// Its inputs and outputs.
    pub metadata: &'a ModelMetadata,
    /// Its image preprocessing.
    pub signature: &'a Signature,
}

/// A pipeline that fits the models of its steps.
pub struct ValidatedPipeline {
    /// Steps and outputs; all outputs of the last step if the settings name none.
    pub pipeline: Pipeline,
    /// Its inputs and outputs.
    pub signature: Signature,
}

/// An input of a step that an input of the pipeline feeds.
struct Consumer<'a> {
    /// The field of the settings, for errors.
    field: String,
    tensor: &'a TensorMetadata,
    image: Option<&'a ImageSpec>,
}

impl PipelineDefinition {
    /// Validates the pipeline against the `models` of its steps, which are in the order of the steps.
    pub fn validate(&self, models: &[StepModel<'_>]) -> Result<ValidatedPipeline, String> {
        let with_field = |reason: String| format!("model-settings.json: {reason}");
        let steps: Vec<_> = self.pipeline.steps.iter().zip(models).collect();
        // In the order of their first use.
        let mut inputs: Vec<(&str, Vec<Consumer>)> = Vec::new();
        for (index, (step, model)) in steps.iter().enumerate() {
            for (name, required) in check_step_inputs(step, model, &steps[..index]).map_err(with_field)? {
                match inputs.iter_mut().find(|(input, _)| *input == name) {
                    Some((_, all)) => all.push(required),
                    None => inputs.push((name, vec![required])),
                }
            }
        }
        let image = |(name, all): &(&str, Vec<Consumer>)| {
            let for_all = all.iter().all(|required| required.image.is_some());
            Some(((*name).to_owned(), all.first().filter(|_| for_all)?.image?.clone()))
        };
        let images = inputs.iter().filter_map(image).collect();
        let inputs: Result<Vec<_>, _> = inputs.into_iter().map(|(name, all)| unify_consumers(name, &all)).collect();
        let wires = self.output_sources(&steps);
        let output = |(index, wire): (usize, &Edge)| {
            let given = find_output(&wire.from, &steps).map_err(|reason| format!("outputs[{index}].from: {reason}"))?;
            Ok(TensorMetadata { name: wire.name.clone(), ..given.clone() })
        };
        let outputs: Result<Vec<_>, _> = wires.iter().enumerate().map(output).collect();
        let (inputs, outputs) = (inputs.map_err(with_field)?, outputs.map_err(with_field)?);
        let signature = Signature::for_pipeline(&self.settings, &inputs, &outputs, images)?;
        Ok(ValidatedPipeline { pipeline: Pipeline { outputs: wires, ..self.pipeline.clone() }, signature })
    }

    /// The outputs that the settings name, or else all outputs of the last step.
    fn output_sources(&self, steps: &[(&Step, &StepModel<'_>)]) -> Vec<Edge> {
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

/// Checks that each required input of a step's model has a compatible source. Returns the step's inputs that the pipeline's
/// inputs feed.
fn check_step_inputs<'a>(
    step: &'a Step,
    model: &'a StepModel<'a>,
    before: &[(&Step, &StepModel<'_>)],
) -> Result<Vec<(&'a str, Consumer<'a>)>, String> {
    let inputs = &model.metadata.inputs;
    let is_fed = |input: &&TensorMetadata| step.inputs.iter().any(|wire| wire.name == input.name);
    if let Some(missing) = inputs.iter().find(|input| !input.parameters.optional && !is_fed(input)) {
        return Err(format!(
            "step {:?}: inputs: the input {:?} of {} has no source",
            step.name, missing.name, step.model
        ));
    }
    let mut required = Vec::new();
    for wire in &step.inputs {
        let field = format!("step {:?}: inputs.{}", step.name, wire.name);
        let with_field = |reason: String| format!("{field}: {reason}");
        let tensor = inputs
            .iter()
            .find(|input| input.name == wire.name)
            .ok_or_else(|| with_field(format!("{} has no such input; it takes: {}", step.model, names(inputs))))?;
        if let Source::Input(name) = &wire.from {
            let image = model.signature.images.get(&wire.name);
            required.push((name.as_str(), Consumer { field, tensor, image }));
        } else {
            let given = find_output(&wire.from, before).map_err(with_field)?;
            check_compatible(given, tensor, model.metadata)
                .map_err(|reason| with_field(format!("{} {reason}", wire.from)))?;
        }
    }
    Ok(required)
}

/// The step output that `from` names.
fn find_output<'a>(from: &Source, steps: &[(&Step, &'a StepModel<'a>)]) -> Result<&'a TensorMetadata, String> {
    // The settings have been checked to name an existing step.
    let Source::Step { step, output } = from else { return Err(format!("{from} is not an output of a step")) };
    let model = steps.iter().find(|(other, _)| other.name == *step).map(|(_, model)| *model);
    let model = model.ok_or_else(|| format!("{from}: there is no step {step:?}"))?;
    let outputs = &model.metadata.outputs;
    let found = outputs.iter().find(|other| other.name == *output);
    found.ok_or_else(|| format!("{from}: {} has no such output; it gives: {}", model.name, names(outputs)))
}

/// Checks that an output of one step can feed an input of another.
fn check_compatible(given: &TensorMetadata, required: &TensorMetadata, model: &ModelMetadata) -> Result<(), String> {
    let images = given.datatype == Datatype::Bytes && required.accepts_images();
    if given.datatype != required.datatype && !images {
        return Err(format!("is {}, and {} takes {}", given.datatype, model.name, required.datatype));
    }
    let shape = if images { &required.shape[..required.shape.len().min(1)] } else { &required.shape[..] };
    unify_shapes(&given.shape, shape)
        .map(drop)
        .ok_or_else(|| format!("has the shape {:?}, and {} takes {shape:?} (-1: any length)", given.shape, model.name))
}

/// Type and shape of a pipeline input that can feed all its consumers.
fn unify_consumers(name: &str, all: &[Consumer<'_>]) -> Result<TensorMetadata, String> {
    let mut unified = TensorMetadata { name: name.to_owned(), ..all[0].tensor.clone() };
    if let Some(images) = shared_image_input(all) {
        return Ok(TensorMetadata { name: unified.name, ..images });
    }
    for Consumer { field, tensor, .. } in &all[1..] {
        let contradicts = |what: &str| Err(format!("{field}: {name:?} cannot feed it and {}: {what}", all[0].field));
        if tensor.datatype != unified.datatype {
            return contradicts(&format!("it takes {}, and that {}", tensor.datatype, unified.datatype));
        }
        match unify_shapes(&unified.shape, &tensor.shape) {
            Some(shape) => unified.shape = shape,
            None => return contradicts(&format!("it takes {:?}, and that {:?}", tensor.shape, unified.shape)),
        }
        unified.parameters.allow_empty &= tensor.parameters.allow_empty;
        unified.parameters.optional &= tensor.parameters.optional;
    }
    // An image is accepted only if all consumers accept it.
    if unified.accepts_images() && !all.iter().all(|required| required.tensor.accepts_images()) {
        unified.parameters.content_type = None;
    }
    Ok(unified)
}

/// An encoded image as the common input of consumers that need different shapes: each preprocesses it by itself.
///
/// `None` if all consumers have one shape and datatype, or if one does not accept images.
fn shared_image_input(all: &[Consumer<'_>]) -> Option<TensorMetadata> {
    let first = all[0].tensor;
    let differs = |required: &Consumer| {
        required.tensor.datatype != first.datatype || unify_shapes(&required.tensor.shape, &first.shape).is_none()
    };
    if !all.iter().any(differs) || !all.iter().all(|required| required.tensor.accepts_images()) {
        return None;
    }
    let batch = all.iter().filter_map(|required| required.tensor.shape.first().copied()).max().unwrap_or(-1);
    let mut images = TensorMetadata::new("", Datatype::Bytes, &[batch]);
    images.parameters.content_type = Some(ContentType::Image);
    Some(images)
}

/// The shape that satisfies both shapes; `None` if there is none. An empty shape stands for an unknown one.
fn unify_shapes(one: &[i64], other: &[i64]) -> Option<Vec<i64>> {
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
    fn shapes_unify_if_a_tensor_can_have_both() {
        assert_eq!(unify_shapes(&[-1, 28, 28, 1], &[4, -1, 28, 1]), Some(vec![4, 28, 28, 1]));
        assert_eq!(unify_shapes(&[], &[-1, 3]), Some(vec![-1, 3]));
        assert_eq!(unify_shapes(&[-1, 3], &[-1, 4]), None);
        assert_eq!(unify_shapes(&[-1, 3], &[-1, 3, 1]), None);
    }
}
