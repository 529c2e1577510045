use contract::Device;
use open_inference::{Datatype, Tensor, TensorMetadata};

use super::Signature;
use crate::analysis::GraphFacts;
use crate::model_settings::{BatchingMode, ModelSettings};
use crate::onnx_file::TensorNames;
use crate::session::Hello;
use crate::triton_config::TritonConfig;

fn graph() -> Hello {
    Hello {
        inputs: vec![TensorMetadata::new("image", Datatype::Fp32, &[-1, -1, 28, 1])],
        outputs: vec![TensorMetadata::new("probabilities", Datatype::Fp32, &[-1, 2])],
        left_out: Vec::new(),
        device: Device { name: "cpu".to_owned(), fallback_reason: None, runtime: "1.31.1".to_owned() },
        facts: GraphFacts::default(),
    }
}

#[test]
fn settings_that_say_everything_need_no_graph() {
    let json = br#"{"inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 28, 28, 1],
                                "parameters": {"image": {"fit": "digit"}}}],
                    "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 2],
                                 "parameters": {"labels": ["no", "yes"]}}],
                    "max_batch_size": 32, "parameters": {"independent_rows": true}}"#;
    let settings = ModelSettings::from_json(json, "m").unwrap();
    let names = |inputs: &[&str], outputs: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        TensorNames { inputs: owned(inputs), outputs: owned(outputs) }
    };
    let all = names(&["image"], &["probabilities"]);
    let declared = Signature::declared(&settings, Some(&all));
    let agreed = Signature::agree(&settings, &graph()).unwrap();
    assert_eq!(declared, Signature { left_out: Vec::new(), ..agreed }, "what is left out is the graph's to say");
    assert_eq!((declared.max_batch_size, declared.independent_rows), (32, true));
    let off = ModelSettings { batching: Some(BatchingMode::Off), ..settings.clone() };
    let declared = Signature::declared(&off, Some(&all));
    assert!(!declared.independent_rows, "a row of a larger batch may differ in its last bits");
    let partly = ModelSettings::from_json(br#"{"inputs": [{"name": "image"}]}"#, "m").unwrap();
    let more = [names(&["image", "size"], &["probabilities"]), names(&["image"], &["probabilities", "boxes"])];
    for (settings, names) in
        [(&partly, Some(&all)), (&settings, Some(&more[0])), (&settings, Some(&more[1])), (&settings, None)]
    {
        let declared = Signature::declared(settings, names);
        assert!(declared.inputs.is_empty() && declared.outputs.is_empty(), "part of a signature is none: {names:?}");
    }
}

#[test]
fn inputs_that_are_optional_need_no_batch_axis_and_all_of_a_model_may_be_empty() {
    let mut gain = TensorMetadata::new("gain", Datatype::Fp32, &[]);
    gain.parameters.optional = true;
    let mut graph = graph();
    graph.inputs.push(gain);
    let json = br#"{"max_batch_size": 8, "parameters": {"independent_rows": true, "allow_empty": true}}"#;
    let settings = ModelSettings::from_json(json, "m").unwrap();
    let signature = Signature::agree(&settings, &graph).unwrap();
    assert_eq!((signature.max_batch_size, signature.independent_rows), (8, true));
    assert!(signature.inputs[1].parameters.optional, "settings do not change that");
    assert!(signature.inputs.iter().all(|input| input.parameters.allow_empty));
    let rows = |rows: usize| Tensor::from_f32("image", Datatype::Fp32, vec![rows, 1], &vec![0.0; rows]).unwrap();
    let gain = Tensor::from_f32("gain", Datatype::Fp32, vec![], &[1.0]).unwrap();
    assert_eq!(signature.rows(&[gain, rows(3)]), 3);
}

#[test]
fn moments_may_be_seconds_and_text_may_not() {
    let agree = |datatype, content_type: &str| {
        let graph = Hello { inputs: vec![TensorMetadata::new("when", datatype, &[-1])], ..graph() };
        let json = format!(r#"{{"inputs": [{{"name": "when", "parameters": {{"content_type": "{content_type}"}}}}]}}"#);
        Signature::agree(&ModelSettings::from_json(json.as_bytes(), "m").unwrap(), &graph).map(|_| ())
    };
    for datatype in [Datatype::Int64, Datatype::Fp64, Datatype::Bytes] {
        assert_eq!(agree(datatype, "datetime"), Ok(()), "{datatype}");
    }
    assert!(agree(Datatype::Fp32, "datetime").unwrap_err().ends_with("INT64 or FP64, and the graph has FP32"));
    assert!(agree(Datatype::Int64, "str").is_err());
}

#[test]
fn tritons_configuration_is_held_against_the_graph_and_settings_win_over_it() {
    let triton = r#"input { name: "image" data_type: TYPE_FP32 dims: [28, 28, -1] format: FORMAT_NHWC }
                    output { name: "probabilities" dims: 2 } max_batch_size: 16
                    dynamic_batching { max_queue_delay_microseconds: 5000 }"#;
    let mut triton = TritonConfig::parse(triton, "m").unwrap();
    triton.outputs[0].labels = vec!["no".to_owned(), "yes".to_owned()];
    let over = |json: &[u8], triton: &TritonConfig| {
        let settings = ModelSettings::from_json(json, "m").unwrap().over(triton.clone()).unwrap();
        (settings.max_batch_time, Signature::agree(&settings, &graph()))
    };
    let (delay, signature) = over(b"{}", &triton);
    let signature = signature.unwrap();
    assert_eq!((delay, signature.max_batch_size), (0.005, 16));
    assert_eq!(signature.inputs[0].shape[1..3], [28, 28]);
    assert_eq!(signature.outputs[0].parameters.labels, ["no", "yes"]);
    let json = br#"{"max_batch_size": 4, "max_batch_time": 0.1,
                    "outputs": [{"name": "probabilities", "parameters": {"labels": ["a", "b"]}}]}"#;
    let (delay, signature) = over(json, &triton);
    let signature = signature.unwrap();
    assert_eq!((delay, signature.max_batch_size), (0.1, 4));
    assert_eq!(signature.outputs[0].parameters.labels, ["a", "b"]);
    for (name, shape, datatype, labels, words) in [
        ("img", None, None, 2, "config.pbtxt: input[0].name: \"img\" is not in the graph, which has: image"),
        ("image", None, Some(Datatype::Int64), 2, "config.pbtxt: input[0].data_type: INT64, but the graph has FP32"),
        ("image", Some(vec![28, 28]), None, 2, "config.pbtxt: input[0].dims: [28, 28] does not fit the graph's"),
        ("image", None, None, 3, "config.pbtxt: output[0].label_filename: 3 labels for 2 classes"),
    ] {
        let mut triton = triton.clone();
        triton.inputs[0].name = name.to_owned();
        triton.inputs[0].shape = shape.or(triton.inputs[0].shape.take());
        triton.inputs[0].datatype = datatype.or(triton.inputs[0].datatype);
        triton.outputs[0].labels = vec!["x".to_owned(); labels];
        let error = over(b"{}", &triton).1.unwrap_err();
        assert!(error.starts_with(words), "{error}");
    }
    triton.max_batch_time = 11.0;
    let error = ModelSettings::default().over(triton).unwrap_err();
    assert_eq!(error, "config.pbtxt: dynamic_batching.max_queue_delay_microseconds: 11 s is more than 10 s");
}
