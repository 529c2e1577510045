mod words;

use std::collections::BTreeMap;

use open_inference::{ContentType, Datatype, Tensor, TensorMetadata, TensorParameters, gives_optional, only_required};

use crate::image_input::{ImageSettings, ImageSpec};
use crate::model_settings::{ModelSettings, TensorSettings};
use crate::onnx_file::TensorNames;
use crate::output_settings;
use crate::session::{Hello, narrows};
use crate::triton_config::TritonConfig;
use words::{Words, of_triton};

/// What goes into a model and what comes out, as graph and settings together have it.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// In the graph's order.
    pub inputs: Vec<TensorMetadata>,
    /// Those that are served, in the graph's order.
    pub outputs: Vec<TensorMetadata>,
    /// Outputs of the graph that are not served, each with the reason.
    pub left_out: Vec<String>,
    /// How a picture becomes an input, by the input's name.
    pub images: BTreeMap<String, ImageSpec>,
    /// Rows that a batch should have at most; 0 where nobody says so, or where not every input and output has a batch axis.
    pub max_batch_size: u32,
    /// Whether each row's answer depends on that row alone, and may be computed and cached in any batch.
    pub independent_rows: bool,
}

impl Signature {
    /// Holds the settings against the graph. The error names the field that contradicts it.
    pub fn agree(settings: &ModelSettings, graph: &Hello) -> Result<Self, String> {
        let triton = &settings.triton;
        let of = Of { whom: "graph", left_out: &graph.left_out, from: Words::Triton };
        let inputs = merge("inputs", &of_triton(&triton.inputs, &graph.inputs), &graph.inputs, &of)?;
        let shown = output_settings::derived(&graph.outputs, &graph.facts.tasks, &settings.outputs);
        let outputs = merge("outputs", &of_triton(&triton.outputs, &shown), &shown, &of)?;
        let of = Of { from: Words::Settings, ..of };
        let mut inputs = merge("inputs", &settings.inputs, &inputs, &of)?;
        let outputs = merge("outputs", &settings.outputs, &outputs, &of)?;
        allow_empty(settings, &mut inputs);
        let closed = closed(&inputs, &outputs);
        if let Some(reason) = closed.as_ref().filter(|_| settings.parameters.independent_rows == Some(true)) {
            return Err(format!("model-settings.json: parameters.independent_rows: {reason}"));
        }
        Ok(Self {
            images: images(settings, &inputs)?,
            left_out: graph.left_out.clone(),
            max_batch_size: if closed.is_none() { settings.max_batch_size } else { 0 },
            independent_rows: settings.rows_are_cached_one_by_one(),
            inputs,
            outputs,
        })
    }

    /// Holds a pipeline's settings against what its steps make of it. How a picture is read is theirs to say.
    pub fn of_steps(
        settings: &ModelSettings,
        inputs: &[TensorMetadata],
        outputs: &[TensorMetadata],
        images: BTreeMap<String, ImageSpec>,
    ) -> Result<Self, String> {
        let of = Of { whom: "pipeline", left_out: &[], from: Words::Settings };
        if let Some(index) = settings.inputs.iter().position(|input| input.parameters.image.is_some()) {
            let field = format!("model-settings.json: inputs[{index}].parameters.image");
            return Err(format!("{field}: how a picture is read stands in the settings of the step's model"));
        }
        let mut inputs = merge("inputs", &settings.inputs, inputs, &of)?;
        let outputs = merge("outputs", &settings.outputs, outputs, &of)?;
        allow_empty(settings, &mut inputs);
        let open = closed(&inputs, &outputs).is_none();
        let max_batch_size = if open { settings.max_batch_size } else { 0 };
        Ok(Self { inputs, outputs, left_out: Vec::new(), images, max_batch_size, independent_rows: false })
    }

    /// What the settings say before the graph has been opened: inputs and outputs where they say all of each tensor that the
    /// `names` in the graph's file name, and none of either otherwise. Part of a signature would pass for all of it, and
    /// requests that are right would be refused.
    pub fn declared(settings: &ModelSettings, names: Option<&TensorNames>) -> Self {
        let (mut inputs, mut outputs) = (declared(&settings.inputs), declared(&settings.outputs));
        let are_all = |names: &TensorNames| names.are(&inputs, &outputs) && settings.triton == TritonConfig::default();
        if !names.is_some_and(are_all) {
            (inputs, outputs) = (Vec::new(), Vec::new());
        }
        settings.outputs.iter().zip(&mut outputs).for_each(|(said, output)| output_settings::complete(said, output));
        allow_empty(settings, &mut inputs);
        let open = closed(&inputs, &outputs).is_none();
        Self {
            // Settings that contradict themselves are an error later, against the graph.
            images: images(settings, &inputs).unwrap_or_default(),
            left_out: Vec::new(),
            max_batch_size: if open { settings.max_batch_size } else { 0 },
            independent_rows: open && settings.rows_are_cached_one_by_one(),
            inputs,
            outputs,
        }
    }

    /// How many rows a request asks for: as many as its first input that is not optional has, or one where batches are out of the question.
    pub fn rows(&self, inputs: &[Tensor]) -> usize {
        let open = closed(&self.inputs, &self.outputs).is_none();
        let is_optional = |tensor: &&Tensor| gives_optional(std::slice::from_ref(*tensor), &self.inputs);
        inputs.iter().find(|tensor| !is_optional(tensor)).and_then(Tensor::rows).filter(|_| open).unwrap_or(1)
    }

    /// How an image becomes the only input that a request needs.
    pub fn only_image(&self) -> Option<&ImageSpec> {
        self.images.get(&only_required(&self.inputs)?.name)
    }

    /// The first input that pictures can be sent for, and how they become it.
    pub fn image(&self) -> Option<(&TensorMetadata, &ImageSpec)> {
        self.inputs.iter().find_map(|input| Some((input, self.images.get(&input.name)?)))
    }
}

/// What settings are held against, and whose words they are in.
struct Of<'a> {
    whom: &'static str,
    left_out: &'a [String],
    from: Words,
}

fn merge(
    side: &str,
    settings: &[TensorSettings],
    found: &[TensorMetadata],
    of: &Of<'_>,
) -> Result<Vec<TensorMetadata>, String> {
    let (mut merged, whom) = (found.to_vec(), of.whom);
    for (index, said) in settings.iter().enumerate() {
        let field = |field: &str| of.from.field(side, index, field);
        if settings[..index].iter().any(|other| other.name == said.name) {
            return Err(format!("{}: {:?} is there twice", field("name"), said.name));
        }
        let Some(tensor) = merged.iter_mut().find(|tensor| tensor.name == said.name) else {
            let this = format!("output {:?} ", said.name);
            if let Some(reason) = of.left_out.iter().find(|reason| reason.starts_with(&this)) {
                return Err(format!("{}: {reason}", field("name")));
            }
            let names = found.iter().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(format!("{}: {:?} is not in the {whom}, which has: {names}", field("name"), said.name));
        };
        if let Some(datatype) = said.datatype.filter(|&datatype| datatype != tensor.datatype) {
            return Err(format!("{}: {datatype}, but the {whom} has {}", field("datatype"), tensor.datatype));
        }
        if let Some(shape) = &said.shape {
            if !narrows(shape, &tensor.shape) {
                return Err(format!("{}: {shape:?} does not fit the {whom}'s {:?}", field("shape"), tensor.shape));
            }
            tensor.shape.clone_from(shape);
        }
        tensor.parameters = parameters(said, &tensor.parameters);
        let checked = check(said, tensor, whom).and_then(|()| match side {
            "outputs" => {
                output_settings::complete(said, tensor);
                output_settings::check(said, tensor, whom)
            }
            _ => Ok(()),
        });
        checked.map_err(|reason| field(&format!("parameters.{reason}")))?;
    }
    Ok(merged)
}

/// All tensors of a side, or none: a list with gaps would pass for the graph's.
fn declared(settings: &[TensorSettings]) -> Vec<TensorMetadata> {
    let tensor = |said: &TensorSettings| {
        Some(TensorMetadata {
            name: said.name.clone(),
            datatype: said.datatype?,
            shape: said.shape.clone()?,
            parameters: parameters(said, &TensorParameters::default()),
        })
    };
    settings.iter().map(tensor).collect::<Option<_>>().unwrap_or_default()
}

/// `parameters.allow_empty` of a model is that of each input.
fn allow_empty(settings: &ModelSettings, inputs: &mut [TensorMetadata]) {
    if settings.parameters.allow_empty {
        for input in inputs {
            input.parameters.allow_empty = true;
        }
    }
}

/// What is said, and the rest as it is.
fn parameters(said: &TensorSettings, is: &TensorParameters) -> TensorParameters {
    let said = &said.parameters;
    TensorParameters {
        content_type: said.content_type.or(said.image.as_ref().map(|_| ContentType::Image)).or(is.content_type),
        task: said.task.or(is.task),
        labels: if said.labels.is_empty() { is.labels.clone() } else { said.labels.clone() },
        allow_empty: said.allow_empty || is.allow_empty,
        activation: said.activation.or(is.activation),
        threshold: said.threshold.or(is.threshold),
        unit: said.unit.clone().or_else(|| is.unit.clone()),
        optional: is.optional,
    }
}

/// Holds the parameters against datatype and shape. The error begins with the field's name.
fn check(said: &TensorSettings, tensor: &TensorMetadata, whom: &str) -> Result<(), String> {
    let TensorParameters { content_type, .. } = &tensor.parameters;
    let is_text = tensor.datatype == Datatype::Bytes;
    match content_type {
        Some(ContentType::Str | ContentType::Base64) if !is_text => {
            Err(format!("content_type: text is BYTES, and the {whom} has {}", tensor.datatype))
        }
        Some(ContentType::Datetime)
            if !matches!(tensor.datatype, Datatype::Bytes | Datatype::Int64 | Datatype::Fp64) =>
        {
            let datatype = tensor.datatype;
            Err(format!("content_type: datetime is BYTES, INT64 or FP64, and the {whom} has {datatype}"))
        }
        Some(other) if said.parameters.image.is_some() && *other != ContentType::Image => {
            Err("content_type: must be image where image says how pictures are read".to_owned())
        }
        _ => Ok(()),
    }
}

/// Why batches of any length are out of the question; `None` when every input that is not optional and every output has an
/// open first axis.
fn closed(inputs: &[TensorMetadata], outputs: &[TensorMetadata]) -> Option<String> {
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

/// For every input whose content type is `image`, except those of models that read encoded pictures by themselves.
fn images(settings: &ModelSettings, inputs: &[TensorMetadata]) -> Result<BTreeMap<String, ImageSpec>, String> {
    let default = ImageSettings::default();
    let mut specs = BTreeMap::new();
    for (index, said) in settings.inputs.iter().enumerate() {
        let Some(input) = inputs.iter().find(|input| input.name == said.name) else { continue };
        let image = match &said.parameters.image {
            Some(image) => image,
            None if input.takes_images() => &default,
            None => continue,
        };
        let triton = settings.triton.inputs.iter().find(|triton| triton.name == said.name);
        let layout = image.layout.or(triton.and_then(|triton| triton.layout));
        let spec = ImageSpec::resolve(&ImageSettings { layout, ..image.clone() }, input.datatype, &input.shape)
            .map_err(|reason| format!("model-settings.json: inputs[{index}]: {reason}"))?;
        specs.insert(input.name.clone(), spec);
    }
    Ok(specs)
}

#[cfg(test)]
mod agreement_tests;

#[cfg(test)]
mod tests {
    use contract::Device;
    use open_inference::Datatype;

    use super::*;
    use crate::analysis::GraphFacts;

    fn graph() -> Hello {
        let tensor = |name: &str, shape: &[i64]| TensorMetadata::new(name, Datatype::Fp32, shape);
        Hello {
            inputs: vec![tensor("image", &[-1, -1, 28, 1])],
            outputs: vec![tensor("probabilities", &[-1, 2])],
            left_out: vec!["output \"maps\" is a sequence".to_owned()],
            device: Device { name: "cpu".to_owned(), fallback_reason: None, runtime: "1.31.1".to_owned() },
            facts: GraphFacts::default(),
        }
    }

    fn agree(json: &str) -> Result<Signature, String> {
        Signature::agree(&ModelSettings::from_json(json.as_bytes(), "m").unwrap(), &graph())
    }

    #[test]
    fn without_settings_everything_is_the_graphs() {
        let signature = agree("{}").unwrap();
        assert_eq!(signature.inputs, graph().inputs);
        assert!(signature.images.is_empty() && !signature.independent_rows);
        assert_eq!(signature.max_batch_size, 0, "nobody has an opinion");
    }

    #[test]
    fn settings_may_fix_what_the_graph_leaves_open() {
        let signature = agree(
            r#"{"inputs": [{"name": "image", "shape": [-1, 28, 28, 1], "parameters": {"image": {"fit": "digit"}}}],
                "outputs": [{"name": "probabilities", "parameters": {"labels": ["no", "yes"]}}]}"#,
        )
        .unwrap();
        assert_eq!(signature.inputs[0].shape, [-1, 28, 28, 1]);
        assert_eq!(signature.image().unwrap().1.width(), 28);
        assert_eq!(signature.outputs[0].parameters.labels, ["no", "yes"]);
    }

    #[test]
    fn each_of_several_inputs_may_be_a_picture() {
        let tensor = |name: &str, datatype, shape: &[i64]| TensorMetadata::new(name, datatype, shape);
        let graph = Hello {
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
        let signature = Signature::agree(&ModelSettings::from_json(settings, "m").unwrap(), &graph).unwrap();
        assert_eq!(signature.images.keys().collect::<Vec<_>>(), ["face", "mask"]);
        assert_eq!(signature.image().unwrap().0.name, "face", "the first in the graph's order");
    }

    #[test]
    fn a_batch_axis_that_is_not_open_everywhere_is_none() {
        let fixed = Hello { outputs: vec![TensorMetadata::new("sum", Datatype::Fp32, &[])], ..graph() };
        let settings = |json: &[u8]| ModelSettings::from_json(json, "m").unwrap();
        let signature = Signature::agree(&settings(br#"{"max_batch_size": 64}"#), &fixed).unwrap();
        assert_eq!(signature.max_batch_size, 0);
        let independent = settings(br#"{"parameters": {"independent_rows": true}}"#);
        assert_eq!(
            Signature::agree(&independent, &fixed).unwrap_err(),
            "model-settings.json: parameters.independent_rows: output \"sum\" has the shape [], whose first axis is not open"
        );
    }

    #[test]
    fn settings_say_the_shape_where_the_graph_says_nothing_of_it() {
        let unranked = Hello { inputs: vec![TensorMetadata::new("x", Datatype::Fp32, &[])], ..graph() };
        let settings = ModelSettings::from_json(br#"{"inputs": [{"name": "x", "shape": [-1, 4]}]}"#, "m").unwrap();
        assert_eq!(Signature::agree(&settings, &unranked).unwrap().inputs[0].shape, [-1, 4]);
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
            (r#"{"inputs": [{"name": "image", "parameters": {"image": {}}}]}"#, "inputs[0]: shape: a picture needs"),
            (r#"{"outputs": [{"name": "probabilities", "parameters": {"labels": ["a"]}}]}"#, "1 labels for 2 classes"),
            (r#"{"inputs": [{"name": "image"}, {"name": "image"}]}"#, "inputs[1].name: \"image\" is there twice"),
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
            let error = agree(json).unwrap_err();
            assert!(error.contains(words), "{json}: {error}");
        }
    }
}
