use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use contract::{ModelDescription, Prediction, TopK};
use http::HeaderMap;
use open_inference::{ContentType, Datatype, Inference, Provenance, Task, Tensor, TensorMetadata, only_required};
use serde_json::{Value, json};

/// A drawn seven of 28×28 pixels: something that any image model can be asked with.
const PICTURE: &[u8] = include_bytes!("../../openapi/seven.png");

/// A longer tensor is no example that anybody reads.
const MAX_ELEMENTS: usize = 1024;

/// How many classes an example asks for.
const TOP_CLASSES: usize = 3;

/// Requests that `model` answers, as named examples.
pub fn requests(model: &ModelDescription) -> Vec<(String, Value)> {
    let mut requests = Vec::new();
    let optional = optional(model);
    let mut add = |kind: &str, words: &str, request: Option<Value>| {
        let name = format!("{}-{}-{kind}", model.name, model.version);
        let summary = format!("{} ({}): {words}", model.name, model.version);
        requests.extend(request.map(|value| {
            let mut example = json!({ "summary": summary, "value": value });
            if let Some(optional) = &optional {
                example["description"] = optional.as_str().into();
            }
            (name, example)
        }));
    };
    let takes_images = model.inputs.iter().any(TensorMetadata::takes_images);
    if takes_images {
        let pictures = inputs(model, |input| if input.takes_images() { Some(picture(input)) } else { tensor(input) });
        add("picture", "a picture", pictures.clone());
        add("top", "the likeliest classes", pictures.and_then(|inputs| most_likely(model, inputs)));
    }
    let tensors = inputs(model, tensor);
    add("tensor", "a tensor", tensors.clone());
    if !takes_images {
        add("top", "the likeliest classes", tensors.and_then(|inputs| most_likely(model, inputs)));
    }
    requests
}

/// The nested list of an old client, for a model with one input of numbers.
pub fn image_array(model: &ModelDescription) -> Option<(String, Value)> {
    let input = only_required(&model.inputs)?;
    let is_number = !matches!(input.datatype, Datatype::Bytes | Datatype::Bool);
    let shape = is_number.then(|| shape(input)).flatten()?;
    let nested = shape.iter().rev().fold(json!(0), |inner, &length| vec![inner; length].into());
    Some((model.name.clone(), json!({ "summary": model.name, "value": { "image_arr": nested } })))
}

/// What `/predict` answers for `model`, whose values are made up. None for a model that takes no images, or whose outputs are too
/// long.
pub fn result(model: &ModelDescription) -> Option<(String, Value)> {
    model.image.as_ref()?;
    let outputs: Option<Vec<Tensor>> = model.outputs.iter().map(made_up).collect();
    let inference = Inference {
        model: model.name.clone(),
        version: model.version.clone(),
        outputs: outputs?,
        provenance: Provenance::default(),
        headers: HeaderMap::new(),
    };
    let prediction = Prediction::from_inference(&inference, &model.outputs, TopK::Default).ok()?;
    let mut value = json!({
        "model": model.name, "version": model.version, "task": prediction.task.name(),
        "cached": false, "key": "sha256:…", "model_digest": model.digest, "device": "cpu",
        "timing_ms": { "total": 2.5, "decode": 0.5, "queue": 0.0, "infer": 1.5 },
    });
    let fields = value.as_object_mut()?;
    fields.extend(prediction.output.map(|output| ("output".to_owned(), output.into())));
    fields.extend(model.notice.as_ref().map(|notice| ("notice".to_owned(), notice.as_str().into())));
    if let Value::Object(result) = serde_json::to_value(&prediction.result).ok()? {
        fields.extend(result);
    }
    let summary = format!("{} ({}): {}", model.name, model.version, prediction.task.name());
    Some((format!("{}-{}", model.name, model.version), json!({ "summary": summary, "value": value })))
}

/// Values that add up to 1, of which the first is the largest.
fn made_up(output: &TensorMetadata) -> Option<Tensor> {
    let shape = shape(output)?;
    let count = shape.iter().product::<usize>();
    if output.datatype == Datatype::Bytes {
        return Some(Tensor::from_strings(&output.name, shape, vec!["text"; count]));
    }
    let is_float = matches!(output.datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64);
    let rest = 0.25 / count.saturating_sub(1).max(1) as f32;
    let value = |place| {
        if !is_float {
            0.0
        } else if place == 0 {
            0.75
        } else {
            rest
        }
    };
    let values: Vec<f32> = (0..count).map(value).collect();
    Tensor::from_f32(&output.name, output.datatype, shape, &values).ok()
}

/// All inputs that a request needs, each as `write` has it; none where one is too long. Zero is seldom a good value for what
/// has a default.
fn inputs(model: &ModelDescription, write: impl Fn(&TensorMetadata) -> Option<Value>) -> Option<Value> {
    let inputs: Option<Vec<Value>> =
        model.inputs.iter().filter(|input| !input.parameters.optional).map(write).collect();
    Some(json!({ "inputs": inputs? }))
}

/// A sentence about the inputs that a request may also give.
fn optional(model: &ModelDescription) -> Option<String> {
    let optional = model.inputs.iter().filter(|input| input.parameters.optional);
    let all: Vec<_> =
        optional.map(|input| format!("`{}` ({} {:?})", input.name, input.datatype, input.shape)).collect();
    (!all.is_empty()).then(|| format!("Optional inputs, whose defaults are in the model: {}.", all.join(", ")))
}

fn picture(input: &TensorMetadata) -> Value {
    json!({ "name": input.name, "datatype": "BYTES", "shape": [1], "data": [STANDARD.encode(PICTURE)] })
}

fn tensor(input: &TensorMetadata) -> Option<Value> {
    let shape = shape(input)?;
    let data = vec![element(input); shape.iter().product()];
    Some(json!({ "name": input.name, "datatype": input.datatype, "shape": shape, "data": data }))
}

fn element(input: &TensorMetadata) -> Value {
    match (input.datatype, input.parameters.content_type) {
        (Datatype::Bool, _) => json!(false),
        (Datatype::Bytes, Some(ContentType::Base64 | ContentType::Image)) => STANDARD.encode(PICTURE).into(),
        (Datatype::Bytes, Some(ContentType::Datetime)) => json!("2026-01-31T12:00:00Z"),
        (Datatype::Bytes, _) => json!("text"),
        _ => json!(0),
    }
}

/// With length one where any fits; `None` where the whole is too long for an example.
fn shape(input: &TensorMetadata) -> Option<Vec<usize>> {
    let shape: Vec<usize> = input.shape.iter().map(|&length| usize::try_from(length).unwrap_or(1)).collect();
    let elements = shape.iter().try_fold(1_usize, |product, &length| product.checked_mul(length))?;
    (elements <= MAX_ELEMENTS).then_some(shape)
}

/// `request` for the likeliest classes of each output that has classes.
fn most_likely(model: &ModelDescription, mut request: Value) -> Option<Value> {
    let has_classes = |output: &&TensorMetadata| output.parameters.task == Some(Task::Classification);
    let wanted =
        |output: &TensorMetadata| json!({ "name": output.name, "parameters": { "classification": TOP_CLASSES } });
    let outputs: Vec<Value> = model.outputs.iter().filter(has_classes).map(wanted).collect();
    request["outputs"] = (!outputs.is_empty()).then(|| outputs.into())?;
    Some(request)
}

#[cfg(test)]
mod tests {
    use contract::ImageInput;
    use open_inference::ModelState;

    use super::*;

    fn model(inputs: Vec<TensorMetadata>) -> ModelDescription {
        let mut output = TensorMetadata::new("y", Datatype::Fp32, &[-1, 10]);
        output.parameters.task = Some(Task::Classification);
        let outputs = vec![output];
        ModelDescription { inputs, outputs, ..ModelDescription::placeholder("m", "2", ModelState::Ready, None) }
    }

    #[test]
    fn every_input_has_data_of_its_datatype_and_shape() {
        let model = model(vec![
            TensorMetadata::new("a", Datatype::Int64, &[-1, 2]),
            TensorMetadata::new("b", Datatype::Bytes, &[]),
            TensorMetadata::new("c", Datatype::Bool, &[1]),
        ]);
        let requests = requests(&model);
        let [(name, tensor), (_, classes)] = requests.as_slice() else { panic!("{requests:?}") };
        assert_eq!((name.as_str(), tensor["summary"].as_str()), ("m-2-tensor", Some("m (2): a tensor")));
        assert_eq!(
            tensor["value"]["inputs"],
            json!([
                { "name": "a", "datatype": "INT64", "shape": [1, 2], "data": [0, 0] },
                { "name": "b", "datatype": "BYTES", "shape": [], "data": ["text"] },
                { "name": "c", "datatype": "BOOL", "shape": [1], "data": [false] },
            ])
        );
        assert_eq!(classes["value"]["outputs"][0]["parameters"]["classification"], 3);
        assert!(image_array(&model).is_none());
    }

    #[test]
    fn optional_inputs_are_named_and_left_out_of_the_example() {
        let mut gain = TensorMetadata::new("gain", Datatype::Fp32, &[]);
        gain.parameters.optional = true;
        let requests = requests(&model(vec![TensorMetadata::new("x", Datatype::Fp32, &[-1, 1]), gain]));
        let (_, tensor) = &requests[0];
        assert_eq!(tensor["description"], "Optional inputs, whose defaults are in the model: `gain` (FP32 []).");
        assert_eq!(tensor["value"]["inputs"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn the_result_of_an_image_is_shown_by_its_task() {
        let result_of = |task, shape: &[i64]| {
            let mut model = model(vec![TensorMetadata::new("a", Datatype::Fp32, &[-1, 2])]);
            model.image = Some(ImageInput { width: 2, height: 2, color: "gray".to_owned(), fit: "digit".to_owned() });
            model.outputs[0].shape = shape.to_vec();
            model.outputs[0].parameters.task = task;
            result(&model).map(|(_, example)| example["value"].clone())
        };
        let class = result_of(Some(Task::Classification), &[-1, 10]).unwrap();
        assert_eq!(
            (&class["task"], &class["cls"], &class["value"]),
            (&json!("classification"), &json!(0), &json!(0.75))
        );
        let image = result_of(Some(Task::Image), &[-1, 3, -1, -1]).unwrap();
        assert_eq!((&image["width"], &image["cls"]), (&json!(1), &Value::Null));
        assert_eq!(result_of(None, &[-1, 2]).unwrap()["outputs"][0]["data"], json!([0.75, 0.25]));
        assert!(result_of(Some(Task::Image), &[-1, 3, 64, 64]).is_none(), "too long");
        assert!(result(&model(vec![])).is_none(), "it takes no images");
    }

    #[test]
    fn a_model_that_takes_images_is_shown_one_and_long_tensors_are_left_out() {
        let mut input = TensorMetadata::new("image", Datatype::Fp32, &[-1, 450, 450, 3]);
        input.parameters.content_type = Some(ContentType::Image);
        let requests = requests(&model(vec![input.clone()]));
        let names: Vec<&str> = requests.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["m-2-picture", "m-2-top"]);
        let data = requests[0].1["value"]["inputs"][0]["data"][0].as_str().unwrap();
        assert_eq!(STANDARD.decode(data).unwrap(), PICTURE);
        input.shape = vec![-1, 2, 2];
        let (_, array) = image_array(&model(vec![input])).unwrap();
        assert_eq!(array["value"], json!({ "image_arr": [[[0, 0], [0, 0]]] }));
    }
}
