use open_inference::{ContentType, TensorMetadata, TensorParameters};

use crate::image_input::ImageSpec;
use crate::model_settings::{ModelSettings, TensorSettings};
use crate::session::Hello;

/// What goes into a model and what comes out, as graph and settings together have it.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// In the graph's order.
    pub inputs: Vec<TensorMetadata>,
    /// In the graph's order.
    pub outputs: Vec<TensorMetadata>,
    /// How a picture becomes the only input.
    pub image: Option<ImageSpec>,
}

impl Signature {
    /// Holds the settings against the graph. The error names the field that contradicts it.
    pub fn agree(settings: &ModelSettings, graph: &Hello) -> Result<Self, String> {
        let inputs = merge("inputs", &settings.inputs, &graph.inputs)?;
        let outputs = merge("outputs", &settings.outputs, &graph.outputs)?;
        let image = image(settings, &inputs)?;
        Ok(Self { inputs, outputs, image })
    }

    /// What the settings say before the graph has been opened. Whatever they leave to the graph is missing.
    pub fn declared(settings: &ModelSettings) -> Self {
        let inputs = declared(&settings.inputs);
        Self {
            // Settings that contradict themselves are an error later, against the graph.
            image: image(settings, &inputs).unwrap_or_default(),
            inputs,
            outputs: declared(&settings.outputs),
        }
    }
}

fn merge(side: &str, settings: &[TensorSettings], graph: &[TensorMetadata]) -> Result<Vec<TensorMetadata>, String> {
    let mut merged = graph.to_vec();
    for (index, said) in settings.iter().enumerate() {
        let field = |field: &str| format!("model-settings.json: {side}[{index}].{field}");
        let Some(tensor) = merged.iter_mut().find(|tensor| tensor.name == said.name) else {
            let names = graph.iter().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(format!("{}: {:?} is not in the graph, which has: {names}", field("name"), said.name));
        };
        if let Some(datatype) = said.datatype.filter(|&datatype| datatype != tensor.datatype) {
            return Err(format!("{}: {datatype}, but the graph has {}", field("datatype"), tensor.datatype));
        }
        if let Some(shape) = &said.shape {
            if !narrows(shape, &tensor.shape) {
                return Err(format!("{}: {shape:?} does not fit the graph's {:?}", field("shape"), tensor.shape));
            }
            tensor.shape.clone_from(shape);
        }
        tensor.parameters = parameters(said);
        check_labels(tensor).map_err(|reason| format!("{}: {reason}", field("parameters.labels")))?;
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
            parameters: parameters(said),
        })
    };
    settings.iter().map(tensor).collect::<Option<_>>().unwrap_or_default()
}

fn parameters(said: &TensorSettings) -> TensorParameters {
    let said = &said.parameters;
    TensorParameters {
        content_type: said.image.as_ref().map(|_| ContentType::Image),
        task: said.task,
        labels: said.labels.clone(),
        allow_empty: said.allow_empty,
    }
}

fn check_labels(tensor: &TensorMetadata) -> Result<(), String> {
    let (labels, classes) = (tensor.parameters.labels.len(), tensor.shape.last().copied().unwrap_or(1));
    if labels > 0 && classes != -1 && usize::try_from(classes) != Ok(labels) {
        return Err(format!("{labels} labels for {classes} classes"));
    }
    Ok(())
}

/// Settings may fix a length that the graph leaves open, and nothing else.
fn narrows(settings: &[i64], graph: &[i64]) -> bool {
    settings.len() == graph.len() && settings.iter().zip(graph).all(|(&said, &is)| said == is || (is == -1 && said > 0))
}

fn image(settings: &ModelSettings, inputs: &[TensorMetadata]) -> Result<Option<ImageSpec>, String> {
    for (index, said) in settings.inputs.iter().enumerate() {
        let Some(image) = &said.parameters.image else { continue };
        let field = format!("model-settings.json: inputs[{index}]");
        let [input] = inputs else {
            return Err(format!(
                "{field}.parameters.image: a picture fills one input, and the model has {}",
                inputs.len()
            ));
        };
        return ImageSpec::resolve(image, &input.shape).map(Some).map_err(|reason| format!("{field}: {reason}"));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use contract::Device;
    use open_inference::Datatype;

    use super::*;

    fn graph() -> Hello {
        let tensor = |name: &str, shape: &[i64]| TensorMetadata::new(name, Datatype::Fp32, shape);
        Hello {
            inputs: vec![tensor("image", &[-1, -1, 28, 1])],
            outputs: vec![tensor("probabilities", &[-1, 2])],
            left_out: Vec::new(),
            device: Device { name: "cpu".to_owned(), stepped_down: None, runtime: "1.31.1".to_owned() },
        }
    }

    fn agree(json: &str) -> Result<Signature, String> {
        Signature::agree(&ModelSettings::from_json(json.as_bytes(), "m").unwrap(), &graph())
    }

    #[test]
    fn without_settings_everything_is_the_graphs() {
        let signature = agree("{}").unwrap();
        assert_eq!(signature.inputs, graph().inputs);
        assert_eq!(signature.image, None);
    }

    #[test]
    fn settings_may_fix_what_the_graph_leaves_open() {
        let signature = agree(
            r#"{"inputs": [{"name": "image", "shape": [-1, 28, 28, 1], "parameters": {"image": {"fit": "digit"}}}],
                "outputs": [{"name": "probabilities", "parameters": {"labels": ["no", "yes"]}}]}"#,
        )
        .unwrap();
        assert_eq!(signature.inputs[0].shape, [-1, 28, 28, 1]);
        assert_eq!(signature.image.unwrap().width(), 28);
        assert_eq!(signature.outputs[0].parameters.labels, ["no", "yes"]);
    }

    #[test]
    fn settings_that_say_everything_need_no_graph() {
        let json = br#"{"inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 28, 28, 1],
                                    "parameters": {"image": {"fit": "digit"}}}],
                        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 2],
                                     "parameters": {"labels": ["no", "yes"]}}]}"#;
        let settings = ModelSettings::from_json(json, "m").unwrap();
        assert_eq!(Signature::declared(&settings), Signature::agree(&settings, &graph()).unwrap());
        let settings = ModelSettings::from_json(br#"{"inputs": [{"name": "image"}]}"#, "m").unwrap();
        assert_eq!(Signature::declared(&settings).inputs, [], "the rest is the graph's to say");
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
        ] {
            let error = agree(json).unwrap_err();
            assert!(error.contains(words), "{json}: {error}");
        }
    }
}
