use contract::TensorDescription;

use crate::image_input::ImageSpec;
use crate::model_settings::{ModelSettings, TensorSettings};
use crate::session::{Hello, TensorSpec};

/// What goes into a model and what comes out, as graph and settings together have it.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// In the graph's order.
    pub inputs: Vec<TensorSpec>,
    /// In the graph's order.
    pub outputs: Vec<TensorSpec>,
    /// How a picture becomes the only input.
    pub image: Option<ImageSpec>,
    /// Names of the first output's classes; none, or one for each.
    pub labels: Vec<String>,
}

impl Signature {
    /// Holds the settings against the graph. The error names the field that contradicts it.
    pub fn agree(settings: &ModelSettings, graph: &Hello) -> Result<Self, String> {
        let inputs = merge("inputs", &settings.inputs, &graph.inputs)?;
        let outputs = merge("outputs", &settings.outputs, &graph.outputs)?;
        let image = image(settings, &inputs)?;
        let labels = labels(settings, &outputs)?;
        Ok(Self { inputs, outputs, image, labels })
    }

    /// What the settings say before the graph has been opened. Whatever they leave to the graph is missing.
    pub fn declared(settings: &ModelSettings) -> Self {
        let inputs = declared(&settings.inputs);
        let labels = settings.outputs.first().map(|output| output.parameters.labels.clone());
        Self {
            // Settings that contradict themselves are an error later, against the graph.
            image: image(settings, &inputs).unwrap_or_default(),
            inputs,
            outputs: declared(&settings.outputs),
            labels: labels.unwrap_or_default(),
        }
    }
}

impl TensorSpec {
    /// In the contract's words.
    pub fn describe(&self) -> TensorDescription {
        TensorDescription { name: self.name.clone(), datatype: self.datatype.to_string(), shape: self.shape.clone() }
    }
}

fn merge(side: &str, settings: &[TensorSettings], graph: &[TensorSpec]) -> Result<Vec<TensorSpec>, String> {
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
    }
    Ok(merged)
}

/// All tensors of a side, or none: a list with gaps would pass for the graph's.
fn declared(settings: &[TensorSettings]) -> Vec<TensorSpec> {
    let tensor = |said: &TensorSettings| {
        Some(TensorSpec { name: said.name.clone(), datatype: said.datatype?, shape: said.shape.clone()? })
    };
    settings.iter().map(tensor).collect::<Option<_>>().unwrap_or_default()
}

/// Settings may fix a length that the graph leaves open, and nothing else.
fn narrows(settings: &[i64], graph: &[i64]) -> bool {
    settings.len() == graph.len() && settings.iter().zip(graph).all(|(&said, &is)| said == is || (is == -1 && said > 0))
}

fn image(settings: &ModelSettings, inputs: &[TensorSpec]) -> Result<Option<ImageSpec>, String> {
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

fn labels(settings: &ModelSettings, outputs: &[TensorSpec]) -> Result<Vec<String>, String> {
    let Some(first) = outputs.first() else { return Err("the graph has no output".to_owned()) };
    let said = settings.outputs.iter().position(|said| said.name == first.name);
    let Some((index, labels)) = said.map(|index| (index, &settings.outputs[index].parameters.labels)) else {
        return Ok(Vec::new());
    };
    let classes = first.shape.last().copied().unwrap_or(1);
    if !labels.is_empty() && classes != -1 && usize::try_from(classes) != Ok(labels.len()) {
        let field = format!("model-settings.json: outputs[{index}].parameters.labels");
        return Err(format!("{field}: {} labels for {classes} classes", labels.len()));
    }
    Ok(labels.clone())
}

#[cfg(test)]
mod tests {
    use contract::Device;

    use super::*;
    use crate::session::Datatype;

    fn graph() -> Hello {
        let tensor = |name: &str, shape: &[i64]| TensorSpec {
            name: name.to_owned(),
            datatype: Datatype::Fp32,
            shape: shape.to_vec(),
        };
        Hello {
            inputs: vec![tensor("image", &[-1, -1, 28, 1])],
            outputs: vec![tensor("probabilities", &[-1, 2])],
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
        assert_eq!((signature.image, signature.labels), (None, vec![]));
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
        assert_eq!(signature.labels, ["no", "yes"]);
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
