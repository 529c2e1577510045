use std::collections::BTreeSet;

use http::HeaderMap;
use open_inference::{Datatype, Inference, Provenance, Tensor, TensorMetadata, Timing};

use super::*;

fn pipeline(json: &str) -> Pipeline {
    serde_json::from_str(json).unwrap()
}

/// `twice` and `thrice` can run concurrently; `sum` needs both.
fn diamond() -> Pipeline {
    pipeline(
        r#"{"settings_digest": "s",
            "steps": [{"name": "twice", "model": "times2", "inputs": [{"name": "x", "from": "number"}]},
                      {"name": "thrice", "model": "times3", "inputs": [{"name": "x", "from": "number"}]},
                      {"name": "sum", "model": "add", "inputs": [{"name": "a", "from": "twice.y"},
                                                                 {"name": "b", "from": "thrice.y.0"}]}],
            "outputs": [{"name": "five", "from": "sum.y"}, {"name": "two", "from": "twice.y"}]}"#,
    )
}

fn tensor(name: &str, value: f32) -> Tensor {
    Tensor::from_f32(name, Datatype::Fp32, vec![1], &[value]).unwrap()
}

fn result(digest: &str, device: &str, output: Tensor) -> Inference {
    let timing_ms = Timing { decode: 0.0, queue: 1.0, infer: 2.0 };
    let (model_digest, device) = (digest.to_owned(), device.to_owned());
    let provenance = Provenance { model_digest, device, timing_ms };
    let (model, version) = ("m".to_owned(), "1".to_owned());
    Inference { model, version, outputs: vec![output], provenance, headers: HeaderMap::new() }
}

#[test]
fn step_is_ready_once_its_inputs_are_complete_under_its_own_names() {
    let pipeline = diamond();
    let mut run = PipelineRun::new(&pipeline, vec![tensor("number", 1.)]);
    assert_eq!(run.ready_steps(), Ok(vec![(0, vec![tensor("x", 1.)]), (1, vec![tensor("x", 1.)])]));
    run.complete(1, result("d3", "cuda", tensor("y.0", 3.)));
    assert_eq!(run.ready_steps().unwrap().len(), 1, "the other step is still running");
    run.complete(0, result("d2", "cpu", tensor("y", 2.)));
    assert_eq!(run.ready_steps(), Ok(vec![(2, vec![tensor("a", 2.), tensor("b", 3.)])]));
    run.complete(2, result("d5", "cpu", tensor("y", 5.)));
    assert_eq!(run.ready_steps(), Ok(vec![]));
    let output = run.finish("p", "7").unwrap();
    assert_eq!(output.outputs, [tensor("five", 5.), tensor("two", 2.)]);
    assert_eq!((output.model.as_str(), output.version.as_str()), ("p", "7"));
    assert_eq!(output.provenance.model_digest, pipeline.digest(["d2", "d3", "d5"]));
    assert_eq!(output.provenance.device, "cpu, cuda");
    assert_eq!(output.provenance.timing_ms, Timing { decode: 0.0, queue: 3.0, infer: 6.0 });
}

#[test]
fn error_names_the_output_that_a_changed_model_no_longer_has() {
    let pipeline = diamond();
    let mut run = PipelineRun::new(&pipeline, vec![tensor("number", 1.)]);
    run.complete(0, result("d2", "cpu", tensor("z", 2.)));
    run.complete(1, result("d3", "cpu", tensor("y.0", 3.)));
    let missing = run.ready_steps().unwrap_err().to_string();
    assert_eq!(missing, "\"twice.y\" is missing because its model has changed");
}

#[test]
fn digest_depends_on_settings_models_and_their_order() {
    let pipeline = diamond();
    let other = Pipeline { settings_digest: "t".to_owned(), ..pipeline.clone() };
    let digests = [
        pipeline.digest(["a", "b"]),
        pipeline.digest(["b", "a"]),
        pipeline.digest(["ab", ""]),
        pipeline.digest(["a"]),
        other.digest(["a", "b"]),
    ];
    assert_eq!(digests.iter().collect::<BTreeSet<_>>().len(), digests.len());
    assert_eq!(digests[0], diamond().digest(["a", "b"]));
}

#[test]
fn inputs_without_rows_yield_outputs_without_rows() {
    let rows = |rows: usize| [Tensor::from_f32("x", Datatype::Fp32, vec![rows, 1], &vec![0.; rows]).unwrap()];
    let output = |shape: &[i64]| [TensorMetadata::new("y", Datatype::Int64, shape)];
    let empty = empty_outputs(&rows(0), &output(&[-1, 3])).unwrap();
    assert_eq!((empty[0].name.as_str(), &empty[0].shape), ("y", &vec![0, 3]));
    assert_eq!(empty_outputs(&rows(1), &output(&[-1, 3])), None);
    assert_eq!(empty_outputs(&rows(0), &output(&[-1, -1])), None, "the row length is unknown");
    assert_eq!(empty_outputs(&rows(0), &output(&[1, 3])), None);
    assert_eq!(empty_outputs(&[], &output(&[-1])), None);
}
