use http::HeaderMap;
use open_inference::{Activation, Datatype, Inference, Provenance, Task, Tensor, TensorMetadata};
use serde_json::{Value, json};

use super::*;

fn inference(outputs: Vec<Tensor>) -> Inference {
    Inference {
        model: "m".to_owned(),
        version: "1".to_owned(),
        outputs,
        provenance: Provenance::default(),
        headers: HeaderMap::new(),
    }
}

fn floats(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_f32(name, Datatype::Fp32, shape.to_vec(), values).unwrap()
}

fn output(name: &str, datatype: Datatype, shape: &[i64], task: Option<Task>, labels: &[&str]) -> TensorMetadata {
    let mut output = TensorMetadata::new(name, datatype, shape);
    output.parameters.task = task;
    output.parameters.labels = labels.iter().map(ToString::to_string).collect();
    output
}

fn probabilities(shape: &[i64], labels: &[&str]) -> TensorMetadata {
    let mut output = output("y", Datatype::Fp32, shape, Some(Task::Classification), labels);
    output.parameters.activation = Some(Activation::None);
    output
}

/// Fields of the result, with its task and output.
fn predict(outputs: &[TensorMetadata], tensors: Vec<Tensor>, top_k: TopK) -> Result<Value, PredictionError> {
    let inference = inference(tensors);
    let read = Prediction::from_inference(&inference, outputs, top_k)?;
    let mut json = serde_json::to_value(&read.result).unwrap();
    json["task"] = read.task.name().into();
    json["output"] = read.output.into();
    Ok(json)
}

fn predict_one(metadata: TensorMetadata, shape: &[usize], values: &[f32]) -> Result<Value, PredictionError> {
    let tensor = Tensor::from_f32(&metadata.name, metadata.datatype, shape.to_vec(), values).unwrap();
    predict(&[metadata], vec![tensor], TopK::Default)
}

#[test]
fn classification_lists_few_classes_in_output_order() {
    let json = predict_one(probabilities(&[-1, 3], &["cat", "dog"]), &[1, 3], &[0.25, 0.5, 0.25]).unwrap();
    assert_eq!(
        json,
        json!({
            "task": "classification", "output": "y", "cls": 1, "label": "dog", "value": 0.5,
            "probabilities": [
                {"label": "cat", "value": 0.25}, {"label": "dog", "value": 0.5}, {"label": "2", "value": 0.25}
            ],
            "scale": "probability", "classes": 3,
        })
    );
}

#[test]
fn first_of_equal_values_is_the_class() {
    assert_eq!(predict_one(probabilities(&[-1, 3], &[]), &[1, 3], &[0.25, 0.375, 0.375]).unwrap()["cls"], 1);
}

#[test]
fn each_row_has_its_class_and_zero_rows_are_a_result() {
    let labels = |shape: &[usize], values: &[f32]| {
        let json = predict_one(probabilities(&[-1, 2], &["cat", "dog"]), shape, values).unwrap();
        json["rows"].as_array().map(|rows| rows.iter().map(|row| row["label"].clone()).collect::<Vec<_>>())
    };
    assert_eq!(labels(&[3, 2], &[0.25, 0.75, 0.75, 0.25, 0.25, 0.75]).unwrap(), ["dog", "cat", "dog"]);
    assert_eq!(labels(&[1, 2], &[0.25, 0.75]), None, "a single row is not listed");
    assert_eq!(labels(&[2, 2, 1, 1], &[0.25, 0.75, 0.75, 0.25]).unwrap(), ["dog", "cat"]);
    let none = predict_one(probabilities(&[-1, 2], &["cat", "dog"]), &[0, 2], &[]).unwrap();
    assert_eq!((&none["cls"], &none["label"], &none["rows"]), (&Value::Null, &Value::Null, &json!([])));
}

#[test]
fn class_axis_may_be_surrounded_by_axes_of_length_1() {
    for shape in [&[1, 2, 1, 1][..], &[1, 1, 1, 2], &[1, 1, 2]] {
        let declared = vec![-1; shape.len()];
        let json = predict_one(probabilities(&declared, &["cat", "dog"]), shape, &[0.25, 0.75]).unwrap();
        assert_eq!((&json["label"], &json["classes"]), (&json!("dog"), &json!(2)), "{shape:?}");
    }
    let maps = predict_one(probabilities(&[-1, 2, 2], &[]), &[1, 2, 2], &[0.0; 4]);
    assert_eq!(
        maps.unwrap_err().to_string(),
        "Output \"y\" has the shape [1, 2, 2], which does not fit the task classification"
    );
}

#[test]
fn single_value_is_the_probability_of_the_second_class() {
    let binary = |labels: &[&str], value: f32| {
        let json = predict_one(probabilities(&[-1, 1], labels), &[1, 1], &[value]).unwrap();
        (json["cls"].clone(), json["label"].clone(), json["value"].clone(), json["probabilities"][0].clone())
    };
    let negative = |label: &str, value: f32| json!({"label": label, "value": value});
    assert_eq!(binary(&["cat", "dog"], 0.75), (json!(1), json!("dog"), json!(0.75), negative("cat", 0.25)));
    assert_eq!(binary(&["cat", "dog"], 0.25), (json!(0), json!("cat"), json!(0.75), negative("cat", 0.75)));
    assert_eq!(binary(&["dog"], 0.25), (json!(0), json!("not dog"), json!(0.75), negative("not dog", 0.75)));
    assert_eq!(binary(&[], 0.5), (json!(1), json!("1"), json!(0.5), negative("0", 0.5)));
}

#[test]
fn threshold_moves_the_boundary_between_two_classes() {
    let mut metadata = probabilities(&[-1, 1], &["dog"]);
    metadata.parameters.threshold = Some(0.7);
    let json = |value| predict_one(metadata.clone(), &[1], &[value]).unwrap();
    assert_eq!((&json(0.69)["cls"], &json(0.7)["cls"]), (&json!(0), &json!(1)));
    assert_eq!((&json(0.69)["threshold"], &json(0.7)["classes"]), (&json!(0.7), &json!(2)));
}

#[test]
fn activation_converts_logits_to_probabilities() {
    let logits = |activation| {
        let mut metadata = output("y", Datatype::Fp32, &[-1, 2], Some(Task::Classification), &[]);
        metadata.parameters.activation = activation;
        let json = predict_one(metadata, &[1, 2], &[0.0, 3.0_f32.ln()]).unwrap();
        (json["scale"].clone(), json["value"].as_f64().unwrap())
    };
    assert_eq!(logits(None), (json!("score"), f64::from(3.0_f32.ln())));
    let (scale, value) = logits(Some(Activation::Softmax));
    assert!(scale == "probability" && (value - 0.75).abs() < 1e-6, "{value}");
    let (scale, value) = logits(Some(Activation::Sigmoid));
    assert!(scale == "probability" && (value - 0.75).abs() < 1e-6, "{value}");
    let mut score = output("y", Datatype::Fp32, &[-1, 1], Some(Task::Classification), &["dog"]);
    let json = predict_one(score.clone(), &[1, 1], &[-2.5]).unwrap();
    assert_eq!(
        json["probabilities"],
        json!([{"cls": 1, "label": "dog", "value": -2.5}]),
        "the score of the other class is unknown"
    );
    score.parameters.activation = Some(Activation::Sigmoid);
    assert_eq!(predict_one(score, &[1, 1], &[200.0]).unwrap()["value"], 1.0);
}

#[test]
fn large_logits_do_not_overflow() {
    let mut metadata = output("y", Datatype::Fp32, &[-1, 2], Some(Task::Classification), &[]);
    metadata.parameters.activation = Some(Activation::Softmax);
    assert_eq!(predict_one(metadata.clone(), &[1, 2], &[1e30, -1e30]).unwrap()["value"], 1.0);
    assert_eq!(predict_one(metadata, &[1, 2], &[f32::INFINITY, 0.0]), Err(PredictionError::NotFinite));
}

#[test]
fn ten_largest_of_many_classes_are_listed_unless_top_k_is_given() {
    let values: Vec<f32> = (0..21_841_u16).map(|class| f32::from(class % 100)).collect();
    let metadata = [probabilities(&[-1, 21_841], &[])];
    let listed = |top_k| {
        let json = predict(&metadata, vec![floats("y", &[1, 21_841], &values)], top_k).unwrap();
        assert_eq!((&json["classes"], &json["cls"]), (&json!(21_841), &json!(99)));
        json["probabilities"].as_array().unwrap().clone()
    };
    assert_eq!(listed(TopK::Default).len(), 10);
    assert_eq!(
        listed(TopK::Default)[1],
        json!({"cls": 199, "label": "199", "value": 99.0}),
        "the first of equal values"
    );
    assert_eq!(listed(TopK::Count(3)).len(), 3);
    assert_eq!(listed(TopK::Count(1_000_000)).len(), 21_841);
    assert_eq!(listed(TopK::All).len(), 21_841);
    let few =
        predict(&[probabilities(&[-1, 2], &["a", "b"])], vec![floats("y", &[1, 2], &[0.25, 0.75])], TopK::All).unwrap();
    let sorted = json!([{"cls": 1, "label": "b", "value": 0.75}, {"cls": 0, "label": "a", "value": 0.25}]);
    assert_eq!(few["probabilities"], sorted);
}

#[test]
fn top_k_is_a_positive_number_or_all() {
    assert_eq!(["7", "all"].map(|text| text.parse::<TopK>().unwrap()), [TopK::Count(7), TopK::All]);
    for invalid in ["0", "-1", "", "ALL", "1.5", "ten"] {
        let text = format!("top_k is {invalid:?}; it must be a positive whole number or \"all\"");
        assert_eq!(invalid.parse::<TopK>().unwrap_err().to_string(), text);
    }
}

#[test]
fn multi_label_lists_all_labels_above_the_threshold() {
    let mut metadata = output("y", Datatype::Fp32, &[-1, 3], Some(Task::MultiLabel), &["sun", "sea", "sand"]);
    metadata.parameters.activation = Some(Activation::None);
    let json = predict_one(metadata.clone(), &[1, 3], &[0.75, 0.25, 0.5]).unwrap();
    assert_eq!((&json["labels"], &json["threshold"]), (&json!(["sun", "sand"]), &json!(0.5)));
    assert_eq!(json["probabilities"][1], json!({"cls": 1, "label": "sea", "value": 0.25, "present": false}));
    assert!(json.get("rows").is_none() && json.get("cls").is_none(), "{json}");
    metadata.parameters.threshold = Some(0.8);
    let rows = predict_one(metadata, &[2, 3], &[0.75, 0.25, 0.5, 0.875, 0.0, 0.0]).unwrap();
    assert_eq!(rows["rows"], json!([{"labels": []}, {"labels": ["sun"]}]));
}

#[test]
fn regression_has_the_precision_of_its_datatype() {
    let regression = |datatype, shape: &[i64]| output("y", datatype, shape, Some(Task::Regression), &[]);
    let mut one = regression(Datatype::Fp32, &[-1, 1]);
    one.parameters.unit = Some("kg".to_owned());
    let json = predict_one(one, &[1, 1], &[0.1]).unwrap();
    assert_eq!(json, json!({"task": "regression", "output": "y", "value": 0.1_f32, "unit": "kg"}));
    assert_eq!(serde_json::to_string(&Number::F32(0.1)).unwrap(), "0.1");
    let json = predict_one(regression(Datatype::Fp64, &[-1, 2]), &[1, 2], &[1.5, -2.0]).unwrap();
    assert_eq!(json["value"], json!([1.5, -2.0]));
    let rows = predict_one(regression(Datatype::Int64, &[-1]), &[2], &[7.0, 8.0]).unwrap();
    assert_eq!((&rows["value"], &rows["rows"]), (&json!(7), &json!([7, 8])));
    assert_eq!(
        predict_one(regression(Datatype::Fp32, &[-1, 1]), &[1, 1], &[f32::NAN]),
        Err(PredictionError::NotFinite)
    );
}

#[test]
fn embedding_is_a_vector() {
    let metadata = output("y", Datatype::Fp32, &[-1, 3], Some(Task::Embedding), &[]);
    let json = predict_one(metadata, &[1, 3], &[0.5, -0.5, 1.0]).unwrap();
    assert_eq!((&json["embedding"], &json["dimensions"]), (&json!([0.5, -0.5, 1.0]), &json!(3)));
}

#[test]
fn image_is_a_png() {
    let metadata = [output("y", Datatype::Fp32, &[-1, 3, -1, -1], Some(Task::Image), &[])];
    let json = predict(&metadata, vec![floats("y", &[1, 3, 4, 5], &[0.5; 60])], TopK::Default).unwrap();
    assert_eq!((&json["width"], &json["height"], &json["task"]), (&json!(5), &json!(4), &json!("image")));
    assert!(json["image"].as_str().unwrap().starts_with("iVBORw0KGgo"), "{json}");
    let two = predict(&metadata, vec![floats("y", &[2, 3, 1, 1], &[0.5; 6])], TopK::Default).unwrap();
    assert_eq!(two["rows"].as_array().unwrap().len(), 2);
    let none = predict(&metadata, vec![floats("y", &[0, 3, 4, 5], &[])], TopK::Default).unwrap();
    assert_eq!((none.get("image"), &none["rows"]), (None, &json!([])));
    let inference = inference(vec![floats("y", &[1, 3, 4, 5], &[0.5; 60])]);
    assert_eq!(Prediction::from_inference(&inference, &metadata, TopK::Default).unwrap().result.images().len(), 1);
}

#[test]
fn segmentation_is_the_argmax_of_each_pixel() {
    let classes = |datatype, declared: &[i64], labels: &[&str], shape: &[usize], values: &[f32]| {
        let metadata = output("y", datatype, declared, Some(Task::Segmentation), labels);
        let json = predict_one(metadata, shape, values).unwrap();
        assert_eq!((&json["width"], &json["height"]), (&json!(2), &json!(1)));
        assert!(json["image"].as_str().unwrap().starts_with("iVBORw0KGgo"), "{json}");
        json["classes"].clone()
    };
    let half = |cls: usize, label: &str| json!({"cls": cls, "label": label, "share": 0.5});
    let labels = ["sky", "sea", "land"];
    let expected = json!([half(0, "sky"), half(2, "land")]);
    let scores = [0.9, 0.1, 0.0, 0.2, 0.1, 0.7];
    assert_eq!(classes(Datatype::Fp32, &[-1, 3, -1, -1], &labels, &[1, 3, 1, 2], &scores), expected);
    let last = [0.9, 0.0, 0.1, 0.1, 0.2, 0.7];
    assert_eq!(classes(Datatype::Fp32, &[-1, -1, -1, 3], &labels, &[1, 1, 2, 3], &last), expected);
    assert_eq!(classes(Datatype::Int64, &[-1, -1, -1], &labels, &[1, 1, 2], &[0.0, 2.0]), expected);
    assert_eq!(classes(Datatype::Fp32, &[-1, 1, -1, -1], &labels, &[1, 1, 1, 2], &[0.0, 2.0]), expected);
    let mask = classes(Datatype::Fp32, &[-1, 1, -1, -1], &["cat"], &[1, 1, 1, 2], &[0.75, 0.25]);
    assert_eq!(mask, json!([half(0, "not cat"), half(1, "cat")]));
}

#[test]
fn values_that_are_not_class_indices_are_rejected() {
    let metadata = output("y", Datatype::Int64, &[-1, -1, -1], Some(Task::Segmentation), &[]);
    let text = predict_one(metadata, &[1, 1, 2], &[0.0, -1.0]).unwrap_err().to_string();
    assert_eq!(text, "Output \"y\" contains -1, which is not a class index");
}

#[test]
fn output_is_selected_by_task_and_labels_not_by_position() {
    let label = output("label", Datatype::Int64, &[-1], None, &[]);
    let tensors = || {
        vec![Tensor::from_f32("label", Datatype::Int64, vec![1], &[1.0]).unwrap(), floats("y", &[1, 2], &[0.25, 0.75])]
    };
    let json = predict(&[label.clone(), probabilities(&[-1, 2], &[])], tensors(), TopK::Default).unwrap();
    assert_eq!((&json["output"], &json["cls"]), (&json!("y"), &json!(1)));
    let named = output("y", Datatype::Fp32, &[-1, 2], None, &["cat", "dog"]);
    let json = predict(&[label, named], tensors(), TopK::Default).unwrap();
    assert_eq!((&json["label"], &json["scale"]), (&json!("dog"), &json!("score")), "labels name classes");
    let age = output("age", Datatype::Fp32, &[-1, 1], Some(Task::Regression), &[]);
    let both = || vec![floats("age", &[1, 1], &[30.0]), floats("y", &[1, 2], &[0.25, 0.75])];
    let labelled = predict(&[age.clone(), probabilities(&[-1, 2], &["cat", "dog"])], both(), TopK::Default).unwrap();
    assert_eq!(labelled["output"], "y");
    assert_eq!(predict(&[age, probabilities(&[-1, 2], &[])], both(), TopK::Default).unwrap()["output"], "age");
}

#[test]
fn unknown_task_returns_all_outputs_as_tensors() {
    let boxes = output("boxes", Datatype::Fp32, &[-1, 4], Some(Task::Detection), &[]);
    let json = predict_one(boxes, &[0, 4], &[]).unwrap();
    let empty = json!([{"name": "boxes", "datatype": "FP32", "shape": [0, 4], "data": []}]);
    assert_eq!(json, json!({"task": "detection", "output": null, "outputs": empty}));
    let logits = predict_one(output("y", Datatype::Fp32, &[-1, 2], None, &[]), &[1, 2], &[1.5, f32::NAN]).unwrap();
    assert_eq!((&logits["task"], &logits["outputs"][0]["data"]), (&json!("none"), &json!([1.5, "NaN"])));
    let bytes = vec![Tensor::from_strings("y", vec![2], [&b"a"[..], b"\xff"])];
    let json = predict(&[output("y", Datatype::Bytes, &[-1], None, &[])], bytes, TopK::Default).unwrap();
    assert_eq!(json["outputs"][0]["data"], json!(["YQ==", "/w=="]));
    assert_eq!(json["outputs"][0]["parameters"]["content_type"], "base64");
}

#[test]
fn error_of_tensors_too_large_for_json_names_the_limit() {
    let length = MAX_JSON_TENSOR_BYTES / 4 + 1;
    let data = vec![0_u8; length * 4].into();
    let tensor = Tensor { name: "y".to_owned(), datatype: Datatype::Fp32, shape: vec![1, length], data };
    let error = predict(&[output("y", Datatype::Fp32, &[-1, -1], None, &[])], vec![tensor], TopK::Default).unwrap_err();
    let text = "The result has 4194308 bytes of tensors, and JSON responses contain at most 4194304";
    assert_eq!(error.to_string(), text);
}

#[test]
fn changed_model_has_class_indices_instead_of_labels() {
    let (inference, outputs) =
        (inference(vec![floats("y", &[1, 2], &[0.25, 0.75])]), [probabilities(&[-1, 2], &["cat", "dog"])]);
    let read = Prediction::from_inference_unlabelled(&inference, &outputs, TopK::Default).unwrap();
    assert_eq!(serde_json::to_value(read.result).unwrap()["label"], "1");
    let other = [output("y", Datatype::Int64, &[-1, 2], Some(Task::Classification), &[])];
    let read = Prediction::from_inference_unlabelled(&inference, &other, TopK::Default).unwrap();
    assert_eq!(read.task, Task::None, "another datatype means another output");
}

#[test]
fn legacy_clients_get_a_class_of_classifiers_and_unknown_lists_only() {
    let class = |outputs: &[TensorMetadata], tensors| {
        Prediction::first_row_class(&inference(tensors), outputs).map(|(cls, _)| cls)
    };
    let row = |name: &str| vec![floats(name, &[1, 2], &[0.25, 0.75])];
    let none = Err(PredictionError::NotAClassifier { model: "m".to_owned() });
    let unknown = |shape: &[i64], task| [output("y", Datatype::Fp32, shape, task, &[])];
    assert_eq!(class(&[probabilities(&[-1, 2], &[])], row("y")), Ok(1));
    assert_eq!(class(&unknown(&[-1, 2], None), row("y")), Ok(1), "as the first MLServe interpreted every model");
    assert_eq!(class(&unknown(&[-1, 2], Some(Task::MultiLabel)), row("y")), Ok(1));
    for task in [Task::None, Task::Detection, Task::Regression, Task::Embedding] {
        assert_eq!(class(&unknown(&[-1, 2], Some(task)), row("y")), none, "{task:?}");
    }
    assert_eq!(class(&unknown(&[-1, 1], None), vec![floats("y", &[1, 1], &[0.5])]), none, "one number");
    assert_eq!(class(&unknown(&[-1, 2, 2], None), vec![floats("y", &[1, 2, 2], &[0.5; 4])]), none);
    let label = output("label", Datatype::Int64, &[-1], None, &[]);
    let number = Tensor::from_f32("label", Datatype::Int64, vec![1], &[3.0]).unwrap();
    assert_eq!(class(&[label], vec![number]), none, "a class index is not a list of scores");
}
