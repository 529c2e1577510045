//! Session processes with ONNX Runtime: tensors, shapes, buckets and start errors.

use std::collections::BTreeMap;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model_api::memory::{Budget, SessionLimits};
use model_api::session::{
    ChildLauncher, DevicePreference, Launcher, Session, SessionConfig, SessionError, SessionInfo, StartError,
};
use open_inference::{Datatype, Tensor};

use crate::support::folder::Folder;
use crate::support::onnx;
use crate::support::process::library;

/// A session of one graph.
struct Opened {
    info: SessionInfo,
    session: <ChildLauncher as Launcher>::Session,
    _folder: Folder,
}

async fn open_with(graph: Vec<u8>, shapes: &[(&str, &[i64])]) -> Option<Result<Opened, StartError>> {
    let folder = Folder::new().with("model.onnx", graph);
    let launcher = ChildLauncher {
        program: PathBuf::from(env!("CARGO_BIN_EXE_model_api")),
        library: library()?,
        device: DevicePreference::Cpu,
        start_timeout: Duration::from_mins(1),
        limits: SessionLimits::none(),
        results: Budget::new(256 << 20),
    };
    let shapes: BTreeMap<_, _> = shapes.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect();
    let graph = folder.path().join("model.onnx");
    let config = SessionConfig { model: "m".to_owned(), graph, threads: 1, shapes, unchanged: Arc::new(|| true) };
    let opened = launcher.launch(&config).await;
    Some(opened.map(|(info, session)| Opened { info, session, _folder: folder }))
}

async fn open(graph: Vec<u8>) -> Option<Opened> {
    Some(open_with(graph, &[]).await?.unwrap())
}

async fn start_error(graph: Vec<u8>) -> Option<String> {
    Some(open_with(graph, &[]).await?.err().unwrap().to_string())
}

impl Opened {
    /// Runs an identity graph and compares its outputs with its inputs.
    async fn assert_identity(&mut self, inputs: &[Tensor]) {
        let outputs = self.session.run(&[inputs], pending()).await.unwrap();
        for (output, input) in outputs.iter().zip(inputs) {
            assert_eq!(output.name, format!("{}_out", input.name));
            assert!(output.shape == input.shape && output.datatype == input.datatype, "{}", input.name);
            assert!(output.data == input.data, "{}: other bytes", input.name);
        }
        assert_eq!(outputs.len(), inputs.len());
    }
}

fn tensor(name: &str, datatype: Datatype, shape: &[usize], data: Vec<u8>) -> Tensor {
    Tensor { name: name.to_owned(), datatype, shape: shape.to_vec(), data: data.into() }
}

/// Bytes of all kinds, so that floats among them are numbers, infinities, subnormals and NaNs with their payloads.
fn bits(datatype: Datatype, count: usize) -> Vec<u8> {
    let length = count * datatype.size().unwrap();
    let bytes = (0..length).map(|place| {
        (place as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] | if place % 7 == 0 { 0xff } else { 0 }
    });
    if datatype == Datatype::Bool { bytes.map(|byte| byte & 1).collect() } else { bytes.collect() }
}

#[tokio::test]
async fn every_datatype_is_returned_bit_for_bit() {
    let inputs = Datatype::ALL.map(|datatype| (datatype.name(), datatype, &[-1_i64, 5][..]));
    let Some(mut opened) = open(onnx::identities(&inputs)).await else { return };
    for (tensor, (name, datatype, shape)) in opened.info.inputs.iter().zip(&inputs) {
        assert_eq!((tensor.name.as_str(), tensor.datatype, tensor.shape.as_slice()), (*name, *datatype, *shape));
    }
    assert_eq!(opened.info.left_out, [""; 0]);
    for rows in [1, 3, 1000] {
        let tensors = Datatype::ALL.map(|datatype| match datatype {
            Datatype::Bytes => {
                let strings: Vec<Vec<u8>> = (0..rows * 5).map(|length| vec![length as u8; length % 40]).collect();
                Tensor::from_strings(datatype.name(), vec![rows, 5], strings.iter().map(Vec::as_slice))
            }
            number => tensor(number.name(), number, &[rows, 5], bits(number, rows * 5)),
        });
        opened.assert_identity(&tensors).await;
    }
}

#[tokio::test]
async fn batch_buckets_do_not_change_results() {
    let inputs = [("numbers", Datatype::Fp32, &[-1, 3][..]), ("words", Datatype::Bytes, &[-1, 3])];
    let Some(mut opened) = open(onnx::identities(&inputs)).await else { return };
    for size in [1, 2, 4, 6] {
        opened.session.add_bucket(size).await.unwrap();
    }
    for rows in [3, 1, 6, 2, 5, 7, 4, 100, 0] {
        let words: Vec<String> = (0..rows * 3).map(|number| number.to_string()).collect();
        let words = Tensor::from_strings("words", vec![rows, 3], words);
        opened
            .assert_identity(&[tensor("numbers", Datatype::Fp32, &[rows, 3], bits(Datatype::Fp32, rows * 3)), words])
            .await;
    }
}

#[tokio::test]
async fn a_rejection_of_padding_rows_is_retried_without_padding() {
    let Some(mut opened) = open(onnx::two_by_three(-1)).await else { return };
    opened.session.add_bucket(8).await.unwrap();
    let six = tensor("x", Datatype::Fp32, &[6], bits(Datatype::Fp32, 6));
    let outputs = opened.session.run(&[std::slice::from_ref(&six)], pending()).await.unwrap();
    assert_eq!((&outputs[0].shape, &outputs[0].data), (&vec![2, 3], &six.data));
}

#[tokio::test]
async fn strings_may_be_any_bytes_of_any_length() {
    let Some(mut opened) = open(onnx::identities(&[("x", Datatype::Bytes, &[-1])])).await else { return };
    let large = vec![b'a'; 10 << 20];
    let strings = [&b""[..], b"\0", b"a\0b\0", b"\xff\xfe\x80", "häß 🦀".as_bytes(), &large, b"", b"end"];
    opened.assert_identity(&[Tensor::from_strings("x", vec![strings.len()], strings)]).await;
    opened.assert_identity(&[Tensor::from_strings("x", vec![1], [&b""[..]])]).await;
}

#[tokio::test]
async fn scalars_empty_tensors_and_eight_axes_are_supported() {
    let inputs: [(&str, Datatype, &[i64]); 6] = [
        ("scalar", Datatype::Fp32, &[]),
        ("word", Datatype::Bytes, &[]),
        ("none", Datatype::Int64, &[-1, 3]),
        ("silence", Datatype::Bytes, &[-1, -1]),
        ("deep", Datatype::Fp16, &[-1; 8]),
        ("fixed", Datatype::Uint8, &[1, 2, 1, 2, 1, 2, 1, 2]),
    ];
    let Some(mut opened) = open(onnx::identities(&inputs)).await else { return };
    let tensors = [
        tensor("scalar", Datatype::Fp32, &[], bits(Datatype::Fp32, 1)),
        Tensor::from_strings("word", vec![], [&b"word"[..]]),
        tensor("none", Datatype::Int64, &[0, 3], vec![]),
        Tensor::from_strings("silence", vec![2, 0], [&b""[..]; 0]),
        tensor("deep", Datatype::Fp16, &[1, 2, 1, 2, 1, 2, 1, 3], bits(Datatype::Fp16, 24)),
        tensor("fixed", Datatype::Uint8, &[1, 2, 1, 2, 1, 2, 1, 2], bits(Datatype::Uint8, 16)),
    ];
    opened.assert_identity(&tensors).await;
}

#[tokio::test]
async fn inputs_are_matched_by_name_and_booleans_are_normalised() {
    let Some(mut opened) = open(onnx::of_two("Sub", Datatype::Fp64)).await else { return };
    let number = |name: &str, value: f64| tensor(name, Datatype::Fp64, &[1], value.to_le_bytes().to_vec());
    let outputs = opened.session.run(&[&[number("b", 0.25), number("a", 1.0)]], pending()).await.unwrap();
    assert_eq!(outputs[0].data, 0.75_f64.to_le_bytes().to_vec());
    let Some(mut opened) = open(onnx::identities(&[("x", Datatype::Bool, &[-1])])).await else { return };
    let outputs = opened.session.run(&[&[tensor("x", Datatype::Bool, &[3], vec![0, 1, 7])]], pending()).await.unwrap();
    assert_eq!(outputs[0].data, Bytes::from_static(&[0, 1, 1]));
}

#[tokio::test]
async fn outputs_that_are_not_tensors_are_skipped_with_the_reason() {
    let Some(mut opened) = open(onnx::zip_map(true)).await else { return };
    let left_out = "output \"probabilities\" is a sequence (a map from i64 to f32), and only tensors are served";
    assert_eq!(opened.info.left_out, [left_out]);
    let input = Tensor::from_f32("x", Datatype::Fp32, vec![2, 2], &[0.1, 0.9, 0.8, 0.2]).unwrap();
    let outputs = opened.session.run(&[&[input]], pending()).await.unwrap();
    assert_eq!(outputs, [Tensor::from_f32("label", Datatype::Int64, vec![2, 1], &[1.0, 0.0]).unwrap()]);
    let Some(opened) = open(onnx::four_bits(false)).await else { return };
    assert_eq!(opened.info.left_out, ["output \"y\" has the element type i4, which is not served"]);
    assert_eq!(opened.info.outputs.len(), 1);
}

#[tokio::test]
async fn a_graph_with_unsupported_inputs_or_outputs_does_not_start() {
    for (graph, expected) in [
        (onnx::zip_map(false), "no output can be served: output \"probabilities\" is a sequence"),
        (onnx::first_of_sequence(), "input \"tensors\" is a sequence (a tensor of f32), and only tensors are served"),
        (onnx::four_bits(true), "input \"x\" has the element type i4, which is not served"),
        (onnx::identities(&[("x", Datatype::Int8, &[1; 9])]), "input \"x\" has 9 axes, and at most 8 are served"),
    ] {
        let Some(reason) = start_error(graph).await else { return };
        assert!(reason.starts_with(expected), "{reason}");
    }
}

#[tokio::test]
async fn a_rejected_warm_up_is_an_error_only_for_known_inputs() {
    let Some(mut opened) = open(onnx::two_by_three(-1)).await else { return };
    let six = Tensor::from_f32("x", Datatype::Fp32, vec![6], &[1., 2., 3., 4., 5., 6.]).unwrap();
    let outputs = opened.session.run(&[&[six]], pending()).await.unwrap();
    assert_eq!(outputs[0].shape, [2, 3]);
    let five = Tensor::from_f32("x", Datatype::Fp32, vec![5], &[0.0; 5]).unwrap();
    assert!(matches!(opened.session.run(&[&[five]], pending()).await, Err(SessionError::Rejected(_))));
    let Some(opened) = open_with(onnx::two_by_three(-1), &[("x", &[5])]).await else { return };
    let reason = opened.err().unwrap().to_string();
    assert!(reason.starts_with("the warm-up run failed: "), "{reason}");
}

#[tokio::test]
async fn a_division_by_an_input_survives_the_warm_up() {
    let Some(mut opened) = open(onnx::of_two("Div", Datatype::Int64)).await else { return };
    let number = |name: &str, value: f32| Tensor::from_f32(name, Datatype::Int64, vec![1], &[value]).unwrap();
    let outputs = opened.session.run(&[&[number("a", 7.0), number("b", 2.0)]], pending()).await.unwrap();
    assert_eq!(outputs[0].to_f32(), [3.0]);
}

#[tokio::test]
async fn the_settings_give_the_shape_of_a_graph_without_a_rank() {
    let Some(opened) = open_with(onnx::any_rank(), &[("x", &[-1, 4])]).await else { return };
    let mut opened = opened.unwrap();
    assert_eq!(opened.info.inputs[0].shape, [0_i64; 0], "as ONNX Runtime shows it");
    let input = Tensor::from_f32("x", Datatype::Fp32, vec![2, 4], &[0.5; 8]).unwrap();
    assert_eq!(opened.session.run(&[&[input]], pending()).await.unwrap()[0].shape, [2, 4]);
}

#[tokio::test]
async fn an_input_with_a_default_is_optional() {
    let Some(mut opened) = open(onnx::with_default()).await else { return };
    let optional: Vec<_> =
        opened.info.inputs.iter().map(|input| (input.name.as_str(), input.parameters.optional)).collect();
    assert_eq!(optional, [("x", false), ("gain", true)]);
    assert_eq!(opened.info.inputs[1].shape, [0_i64; 0]);
    let x = Tensor::from_f32("x", Datatype::Fp32, vec![1, 3], &[1.0, 2.0, 3.0]).unwrap();
    let gain = Tensor::from_f32("gain", Datatype::Fp32, vec![], &[5.0]).unwrap();
    let left_out = opened.session.run(&[std::slice::from_ref(&x)], pending()).await.unwrap();
    assert_eq!(left_out[0].to_f32(), [2.0, 4.0, 6.0]);
    let given = opened.session.run(&[&[x.clone(), gain]], pending()).await.unwrap();
    assert_eq!(given[0].to_f32(), [5.0, 10.0, 15.0]);
    let again = opened.session.run(&[&[x]], pending()).await.unwrap();
    assert_eq!(again[0].to_f32(), [2.0, 4.0, 6.0], "the optional input of one request does not affect the next");
}

#[tokio::test]
async fn a_constant_listed_as_an_input_is_not_an_input() {
    let Some(opened) = open(onnx::with_listed_constant()).await else { return };
    assert_eq!(opened.info.inputs.iter().map(|input| input.name.as_str()).collect::<Vec<_>>(), ["x"]);
}
