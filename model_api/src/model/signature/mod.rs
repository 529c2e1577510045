//! Signature of a model: inputs and outputs of its graph, merged with its settings.

mod field_names;

use std::collections::BTreeMap;

use open_inference::{
    ContentType, Datatype, Tensor, TensorMetadata, TensorParameters, has_optional_input, only_required_input,
};

use super::output_settings;
use crate::onnx::proto::TensorNames;
use crate::preprocessing::{ImageSettings, ImageSpec};
use crate::repository::model_settings::{ModelSettings, TensorSettings};
use crate::repository::triton_config::TritonConfig;
use crate::session::{SessionInfo, narrows};
use field_names::{SettingsFile, settings_from_triton};

/// Inputs and outputs of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// Inputs, in the graph's order.
    pub inputs: Vec<TensorMetadata>,
    /// Served outputs, in the graph's order.
    pub outputs: Vec<TensorMetadata>,
    /// Outputs of the graph that are not served, each with the reason.
    pub skipped_outputs: Vec<String>,
    /// Preprocessing of images, by input name.
    pub images: BTreeMap<String, ImageSpec>,
    /// Maximum number of rows in a batch; 0 if the settings have none, or if an input or output has no batch axis.
    pub max_batch_size: u32,
    /// Whether each row's result depends on that row alone, so that rows can be cached one by one.
    pub independent_rows: bool,
}

impl Signature {
    /// Merges the settings with the graph. The error names the field that contradicts the graph.
    pub fn merge(settings: &ModelSettings, graph: &SessionInfo) -> Result<Self, String> {
        let triton = &settings.triton;
        let context = MergeContext { subject: "graph", skipped_outputs: &graph.left_out, file: SettingsFile::Triton };
        let inputs =
            merge_side("inputs", &settings_from_triton(&triton.inputs, &graph.inputs), &graph.inputs, &context)?;
        let derived = output_settings::with_derived_tasks(&graph.outputs, &graph.facts.tasks, &settings.outputs);
        let outputs = merge_side("outputs", &settings_from_triton(&triton.outputs, &derived), &derived, &context)?;
        let context = MergeContext { file: SettingsFile::Settings, ..context };
        let mut inputs = merge_side("inputs", &settings.inputs, &inputs, &context)?;
        let outputs = merge_side("outputs", &settings.outputs, &outputs, &context)?;
        allow_empty(settings, &mut inputs);
        let not_batchable = not_batchable_reason(&inputs, &outputs);
        if let Some(reason) = not_batchable.as_ref().filter(|_| settings.parameters.independent_rows == Some(true)) {
            return Err(format!("model-settings.json: parameters.independent_rows: {reason}"));
        }
        Ok(Self {
            images: image_specs(settings, &inputs)?,
            skipped_outputs: graph.left_out.clone(),
            max_batch_size: if not_batchable.is_none() { settings.max_batch_size } else { 0 },
            independent_rows: settings.caches_rows(),
            inputs,
            outputs,
        })
    }

    /// Merges a pipeline's settings with the inputs and outputs that its steps give it. The steps' models define how images are
    /// preprocessed.
    pub fn for_pipeline(
        settings: &ModelSettings,
        inputs: &[TensorMetadata],
        outputs: &[TensorMetadata],
        images: BTreeMap<String, ImageSpec>,
    ) -> Result<Self, String> {
        let context = MergeContext { subject: "pipeline", skipped_outputs: &[], file: SettingsFile::Settings };
        if let Some(index) = settings.inputs.iter().position(|input| input.parameters.image.is_some()) {
            let field = format!("model-settings.json: inputs[{index}].parameters.image");
            return Err(format!("{field}: the settings of the step's model define the preprocessing of images"));
        }
        let mut inputs = merge_side("inputs", &settings.inputs, inputs, &context)?;
        let outputs = merge_side("outputs", &settings.outputs, outputs, &context)?;
        allow_empty(settings, &mut inputs);
        let is_batchable = not_batchable_reason(&inputs, &outputs).is_none();
        let max_batch_size = if is_batchable { settings.max_batch_size } else { 0 };
        Ok(Self { inputs, outputs, skipped_outputs: Vec::new(), images, max_batch_size, independent_rows: false })
    }

    /// The signature from the settings alone, before the graph has been opened.
    ///
    /// It has inputs and outputs only if the settings fully describe every tensor in `names`, which come from the graph's file. A
    /// partial signature would reject valid requests.
    pub fn from_settings(settings: &ModelSettings, names: Option<&TensorNames>) -> Self {
        let (mut inputs, mut outputs) = (complete_side(&settings.inputs), complete_side(&settings.outputs));
        let are_all =
            |names: &TensorNames| names.matches(&inputs, &outputs) && settings.triton == TritonConfig::default();
        if !names.is_some_and(are_all) {
            (inputs, outputs) = (Vec::new(), Vec::new());
        }
        settings
            .outputs
            .iter()
            .zip(&mut outputs)
            .for_each(|(declared, output)| output_settings::add_implied_task(declared, output));
        allow_empty(settings, &mut inputs);
        let is_batchable = not_batchable_reason(&inputs, &outputs).is_none();
        Self {
            // Invalid settings are reported later, when they are merged with the graph.
            images: image_specs(settings, &inputs).unwrap_or_default(),
            skipped_outputs: Vec::new(),
            max_batch_size: if is_batchable { settings.max_batch_size } else { 0 },
            independent_rows: is_batchable && settings.caches_rows(),
            inputs,
            outputs,
        }
    }

    /// The number of rows of a request: that of its first required input, or 1 if the model cannot be batched.
    pub fn row_count(&self, inputs: &[Tensor]) -> usize {
        let is_batchable = not_batchable_reason(&self.inputs, &self.outputs).is_none();
        let is_optional = |tensor: &&Tensor| has_optional_input(std::slice::from_ref(*tensor), &self.inputs);
        inputs.iter().find(|tensor| !is_optional(tensor)).and_then(Tensor::rows).filter(|_| is_batchable).unwrap_or(1)
    }

    /// Preprocessing of images if an image is the only required input.
    pub fn only_image(&self) -> Option<&ImageSpec> {
        self.images.get(&only_required_input(&self.inputs)?.name)
    }

    /// The first input that accepts images, and its preprocessing.
    pub fn image_input(&self) -> Option<(&TensorMetadata, &ImageSpec)> {
        self.inputs.iter().find_map(|input| Some((input, self.images.get(&input.name)?)))
    }
}

/// What the settings are merged with, and the file that contains them.
struct MergeContext<'a> {
    subject: &'static str,
    skipped_outputs: &'a [String],
    file: SettingsFile,
}

fn merge_side(
    side: &str,
    settings: &[TensorSettings],
    found: &[TensorMetadata],
    context: &MergeContext<'_>,
) -> Result<Vec<TensorMetadata>, String> {
    let (mut merged, subject) = (found.to_vec(), context.subject);
    for (index, declared) in settings.iter().enumerate() {
        let field = |field: &str| context.file.field(side, index, field);
        if settings[..index].iter().any(|other| other.name == declared.name) {
            return Err(format!("{}: {:?} occurs twice", field("name"), declared.name));
        }
        let Some(tensor) = merged.iter_mut().find(|tensor| tensor.name == declared.name) else {
            let this = format!("output {:?} ", declared.name);
            if let Some(reason) = context.skipped_outputs.iter().find(|reason| reason.starts_with(&this)) {
                return Err(format!("{}: {reason}", field("name")));
            }
            let names = found.iter().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(format!("{}: {:?} is not in the {subject}, which has: {names}", field("name"), declared.name));
        };
        if let Some(datatype) = declared.datatype.filter(|&datatype| datatype != tensor.datatype) {
            return Err(format!("{}: {datatype}, but the {subject} has {}", field("datatype"), tensor.datatype));
        }
        if let Some(shape) = &declared.shape {
            if !narrows(shape, &tensor.shape) {
                return Err(format!("{}: {shape:?} does not fit the {subject}'s {:?}", field("shape"), tensor.shape));
            }
            tensor.shape.clone_from(shape);
        }
        tensor.parameters = merge_parameters(declared, &tensor.parameters);
        let checked = validate(declared, tensor, subject).and_then(|()| match side {
            "outputs" => {
                output_settings::add_implied_task(declared, tensor);
                output_settings::validate(declared, tensor, subject)
            }
            _ => Ok(()),
        });
        checked.map_err(|reason| field(&format!("parameters.{reason}")))?;
    }
    Ok(merged)
}

/// All tensors of a side if each is fully described, or else none.
fn complete_side(settings: &[TensorSettings]) -> Vec<TensorMetadata> {
    let tensor = |declared: &TensorSettings| {
        Some(TensorMetadata {
            name: declared.name.clone(),
            datatype: declared.datatype?,
            shape: declared.shape.clone()?,
            parameters: merge_parameters(declared, &TensorParameters::default()),
        })
    };
    settings.iter().map(tensor).collect::<Option<_>>().unwrap_or_default()
}

/// Applies `parameters.allow_empty` of the model to each input.
fn allow_empty(settings: &ModelSettings, inputs: &mut [TensorMetadata]) {
    if settings.parameters.allow_empty {
        for input in inputs {
            input.parameters.allow_empty = true;
        }
    }
}

/// Declared parameters override those of the graph.
fn merge_parameters(declared: &TensorSettings, found: &TensorParameters) -> TensorParameters {
    let declared = &declared.parameters;
    TensorParameters {
        content_type: declared
            .content_type
            .or(declared.image.as_ref().map(|_| ContentType::Image))
            .or(found.content_type),
        task: declared.task.or(found.task),
        labels: if declared.labels.is_empty() { found.labels.clone() } else { declared.labels.clone() },
        allow_empty: declared.allow_empty || found.allow_empty,
        activation: declared.activation.or(found.activation),
        threshold: declared.threshold.or(found.threshold),
        unit: declared.unit.clone().or_else(|| found.unit.clone()),
        optional: found.optional,
    }
}

/// Validates the parameters against datatype and shape. The error begins with the field's name.
fn validate(declared: &TensorSettings, tensor: &TensorMetadata, subject: &str) -> Result<(), String> {
    let TensorParameters { content_type, .. } = &tensor.parameters;
    let is_text = tensor.datatype == Datatype::Bytes;
    match content_type {
        Some(ContentType::Str | ContentType::Base64) if !is_text => {
            Err(format!("content_type: text is BYTES, and the {subject} has {}", tensor.datatype))
        }
        Some(ContentType::Datetime)
            if !matches!(tensor.datatype, Datatype::Bytes | Datatype::Int64 | Datatype::Fp64) =>
        {
            let datatype = tensor.datatype;
            Err(format!("content_type: datetime is BYTES, INT64 or FP64, and the {subject} has {datatype}"))
        }
        Some(other) if declared.parameters.image.is_some() && *other != ContentType::Image => {
            Err("content_type: must be image for an input with image settings".to_owned())
        }
        _ => Ok(()),
    }
}

/// Why the model cannot run batches of any size; `None` if every required input and every output has an open first axis.
fn not_batchable_reason(inputs: &[TensorMetadata], outputs: &[TensorMetadata]) -> Option<String> {
    let required = || inputs.iter().filter(|input| !input.parameters.optional);
    for (side, is_empty) in [("input", required().next().is_none()), ("output", outputs.is_empty())] {
        if is_empty {
            return Some(format!("there is no {side}"));
        }
    }
    let mut tensors = required().map(|input| ("input", input)).chain(outputs.iter().map(|output| ("output", output)));
    let (side, tensor) = tensors.find(|(_, tensor)| tensor.shape.first() != Some(&-1))?;
    Some(format!("{side} {:?} has the shape {:?}, whose first axis is not open", tensor.name, tensor.shape))
}

/// Image preprocessing of every input whose content type is `image`, except for models that decode images themselves.
fn image_specs(settings: &ModelSettings, inputs: &[TensorMetadata]) -> Result<BTreeMap<String, ImageSpec>, String> {
    let default = ImageSettings::default();
    let mut specs = BTreeMap::new();
    for (index, declared) in settings.inputs.iter().enumerate() {
        let Some(input) = inputs.iter().find(|input| input.name == declared.name) else { continue };
        let image = match &declared.parameters.image {
            Some(image) => image,
            None if input.accepts_images() => &default,
            None => continue,
        };
        let triton = settings.triton.inputs.iter().find(|triton| triton.name == declared.name);
        let layout = image.layout.or(triton.and_then(|triton| triton.layout));
        let spec = ImageSpec::resolve(&ImageSettings { layout, ..image.clone() }, input.datatype, &input.shape)
            .map_err(|reason| format!("model-settings.json: inputs[{index}]: {reason}"))?;
        specs.insert(input.name.clone(), spec);
    }
    Ok(specs)
}

#[cfg(test)]
mod merge_tests;

#[cfg(test)]
mod tests {
    use contract::Device;
    use open_inference::Datatype;

    use super::*;
    use crate::onnx::analysis::GraphFacts;

    fn graph() -> SessionInfo {
        let tensor = |name: &str, shape: &[i64]| TensorMetadata::new(name, Datatype::Fp32, shape);
        SessionInfo {
            inputs: vec![tensor("image", &[-1, -1, 28, 1])],
            outputs: vec![tensor("probabilities", &[-1, 2])],
            left_out: vec!["output \"maps\" is a sequence".to_owned()],
            device: Device { name: "cpu".to_owned(), fallback_reason: None, runtime: "1.31.1".to_owned() },
            facts: GraphFacts::default(),
        }
    }

    fn merge(json: &str) -> Result<Signature, String> {
        Signature::merge(&ModelSettings::from_json(json.as_bytes(), "m").unwrap(), &graph())
    }

    #[test]
    fn without_settings_the_signature_is_the_graphs() {
        let signature = merge("{}").unwrap();
        assert_eq!(signature.inputs, graph().inputs);
        assert!(signature.images.is_empty() && !signature.independent_rows);
        assert_eq!(signature.max_batch_size, 0, "neither file has the field");
    }

    #[test]
    fn settings_may_fix_lengths_that_the_graph_leaves_open() {
        let signature = merge(
            r#"{"inputs": [{"name": "image", "shape": [-1, 28, 28, 1], "parameters": {"image": {"fit": "digit"}}}],
                "outputs": [{"name": "probabilities", "parameters": {"labels": ["no", "yes"]}}]}"#,
        )
        .unwrap();
        assert_eq!(signature.inputs[0].shape, [-1, 28, 28, 1]);
        assert_eq!(signature.image_input().unwrap().1.width(), 28);
        assert_eq!(signature.outputs[0].parameters.labels, ["no", "yes"]);
    }

    #[test]
    fn each_of_several_inputs_may_be_an_image() {
        let tensor = |name: &str, datatype, shape: &[i64]| TensorMetadata::new(name, datatype, shape);
        let graph = SessionInfo {
            inputs: vec![
                tensor("age", Datatype::Fp32, &[-1, 1]),
                tensor("face", Datatype::Fp32, &[-1, 8, 8, 3]),
                tensor("mask", Datatype::Uint8, &[-1, 1, 4, 4]),
                tensor("file", Datatype::Bytes, &[-1]),
            ],
            ..graph()
        };
        let settings = br#"{"inputs": [{"name": "mask", "parameters": {"image": {"fit": "stretch"}}},
                                       {"name": "file", "parameters": {"content_type": "image"}},
                                       {"name": "face", "parameters": {"content_type": "image"}}]}"#;
        let signature = Signature::merge(&ModelSettings::from_json(settings, "m").unwrap(), &graph).unwrap();
        assert_eq!(signature.images.keys().collect::<Vec<_>>(), ["face", "mask"]);
        assert_eq!(signature.image_input().unwrap().0.name, "face", "the first in the graph's order");
    }

    #[test]
    fn a_batch_axis_must_be_open_in_all_inputs_and_outputs() {
        let fixed = SessionInfo { outputs: vec![TensorMetadata::new("sum", Datatype::Fp32, &[])], ..graph() };
        let settings = |json: &[u8]| ModelSettings::from_json(json, "m").unwrap();
        let signature = Signature::merge(&settings(br#"{"max_batch_size": 64}"#), &fixed).unwrap();
        assert_eq!(signature.max_batch_size, 0);
        let independent = settings(br#"{"parameters": {"independent_rows": true}}"#);
        assert_eq!(
            Signature::merge(&independent, &fixed).unwrap_err(),
            "model-settings.json: parameters.independent_rows: output \"sum\" has the shape [], whose first axis is not open"
        );
    }

    #[test]
    fn settings_define_the_shape_if_the_graph_has_none() {
        let unranked = SessionInfo { inputs: vec![TensorMetadata::new("x", Datatype::Fp32, &[])], ..graph() };
        let settings = ModelSettings::from_json(br#"{"inputs": [{"name": "x", "shape": [-1, 4]}]}"#, "m").unwrap();
        assert_eq!(Signature::merge(&settings, &unranked).unwrap().inputs[0].shape, [-1, 4]);
    }

    #[test]
    fn a_contradiction_names_its_field() {
        for (json, words) in [
            (r#"{"inputs": [{"name": "img"}]}"#, "inputs[0].name: \"img\" is not in the graph, which has: image"),
            (
                r#"{"inputs": [{"name": "image", "datatype": "INT64"}]}"#,
                "inputs[0].datatype: INT64, but the graph has FP32",
            ),
            (
                r#"{"inputs": [{"name": "image", "shape": [-1, 28, 27, 1]}]}"#,
                "inputs[0].shape: [-1, 28, 27, 1] does not",
            ),
            (r#"{"inputs": [{"name": "image", "shape": [28, 28]}]}"#, "inputs[0].shape: [28, 28] does not"),
            (r#"{"inputs": [{"name": "image", "parameters": {"image": {}}}]}"#, "inputs[0]: shape: an image needs"),
            (r#"{"outputs": [{"name": "probabilities", "parameters": {"labels": ["a"]}}]}"#, "1 labels for 2 classes"),
            (r#"{"inputs": [{"name": "image"}, {"name": "image"}]}"#, "inputs[1].name: \"image\" occurs twice"),
            (
                r#"{"inputs": [{"name": "image", "parameters": {"content_type": "str"}}]}"#,
                "inputs[0].parameters.content_type: text is BYTES, and the graph has FP32",
            ),
            (
                r#"{"inputs": [{"name": "image", "parameters": {"content_type": "np", "image": {}}}]}"#,
                "inputs[0].parameters.content_type: must be image",
            ),
            (
                r#"{"outputs": [{"name": "probabilities", "parameters": {"task": "image"}}]}"#,
                "outputs[0].parameters.task: an image has 3 or 4 axes",
            ),
            (r#"{"outputs": [{"name": "maps"}]}"#, "outputs[0].name: output \"maps\" is a sequence"),
        ] {
            let error = merge(json).unwrap_err();
            assert!(error.contains(words), "{json}: {error}");
        }
    }
}
