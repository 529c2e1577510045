//! What goes into a session process comes out as ONNX Runtime has it, bit for bit.

use std::collections::BTreeMap;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model_api::memory::{Budget, SessionLimits};
use model_api::session::{Blueprint, ChildLauncher, DeviceWish, Hello, Launcher, Session, SessionError, StartError};
use open_inference::{Datatype, Tensor};

use crate::support::folder::Folder;
use crate::support::onnx;
use crate::support::process::library;

/// A session of a graph, alone.
struct Opened {
    hello: Hello,
    session: <ChildLauncher as Launcher>::Session,
    _folder: Folder,
}

async fn open_with(graph: Vec<u8>, shapes: &[(&str, &[i64])]) -> Option<Result<Opened, StartError>> {
    let folder = Folder::new().with("model.onnx", graph);
    let launcher = ChildLauncher {
        program: PathBuf::from(env!("CARGO_BIN_EXE_model_api")),
        library: library()?,
        device: DeviceWish::Cpu,
        start_timeout: Duration::from_mins(1),
        limits: SessionLimits::none(),
        results: Budget::new(256 << 20),
    };
    let shapes: BTreeMap<_, _> = shapes.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect();
    let graph = folder.path().join("model.onnx");
    let blueprint = Blueprint { model: "m".to_owned(), graph, threads: 1, shapes, unchanged: Arc::new(|| true) };
    let opened = launcher.launch(&blueprint).await;
    Some(opened.map(|(hello, session)| Opened { hello, session, _folder: folder }))
}

async fn open(graph: Vec<u8>) -> Option<Opened> {
    Some(open_with(graph, &[]).await?.unwrap())
}

async fn refusal(graph: Vec<u8>) -> Option<String> {
    Some(open_with(graph, &[]).await?.err().unwrap().to_string())
}

impl Opened {
    /// Runs an identity: the outputs are called like the inputs again, and must be the inputs.
    async fn gives_back(&mut self, inputs: &[Tensor]) {
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
async fn every_datatype_comes_back_bit_for_bit() {
    let inputs = Datatype::ALL.map(|datatype| (datatype.name(), datatype, &[-1_i64, 5][..]));
    let Some(mut opened) = open(onnx::identities(&inputs)).await else { return };
    for (tensor, (name, datatype, shape)) in opened.hello.inputs.iter().zip(&inputs) {
        assert_eq!((tensor.name.as_str(), tensor.datatype, tensor.shape.as_slice()), (*name, *datatype, *shape));
    }
    assert_eq!(opened.hello.left_out, [""; 0]);
    for rows in [1, 3, 1000] {
        let tensors = Datatype::ALL.map(|datatype| match datatype {
            Datatype::Bytes => {
                let strings: Vec<Vec<u8>> = (0..rows * 5).map(|length| vec![length as u8; length % 40]).collect();
                Tensor::from_strings(datatype.name(), vec![rows, 5], strings.iter().map(Vec::as_slice))
            }
            number => tensor(number.name(), number, &[rows, 5], bits(number, rows * 5)),
        });
        opened.gives_back(&tensors).await;
    }
}

#[tokio::test]
async fn with_sizes_kept_apart_every_batch_is_answered_as_before() {
    let inputs = [("numbers", Datatype::Fp32, &[-1, 3][..]), ("words", Datatype::Bytes, &[-1, 3])];
    let Some(mut opened) = open(onnx::identities(&inputs)).await else { return };
    for size in [1, 2, 4, 6] {
        opened.session.keep_size(size).await.unwrap();
    }
    for rows in [3, 1, 6, 2, 5, 7, 4, 100, 0] {
        let words: Vec<String> = (0..rows * 3).map(|number| number.to_string()).collect();
        let words = Tensor::from_strings("words", vec![rows, 3], words);
        opened
            .gives_back(&[tensor("numbers", Datatype::Fp32, &[rows, 3], bits(Datatype::Fp32, rows * 3)), words])
            .await;
    }
}

#[tokio::test]
async fn a_refusal_of_rows_that_nobody_asked_for_is_told_to_nobody() {
    let Some(mut opened) = open(onnx::two_by_three(-1)).await else { return };
    opened.session.keep_size(8).await.unwrap();
    let six = tensor("x", Datatype::Fp32, &[6], bits(Datatype::Fp32, 6));
    let outputs = opened.session.run(&[std::slice::from_ref(&six)], pending()).await.unwrap();
    assert_eq!((&outputs[0].shape, &outputs[0].data), (&vec![2, 3], &six.data));
}

#[tokio::test]
async fn strings_are_any_bytes_of_any_length() {
    let Some(mut opened) = open(onnx::identities(&[("x", Datatype::Bytes, &[-1])])).await else { return };
    let large = vec![b'a'; 10 << 20];
    let strings = [&b""[..], b"\0", b"a\0b\0", b"\xff\xfe\x80", "häß 🦀".as_bytes(), &large, b"", b"end"];
    opened.gives_back(&[Tensor::from_strings("x", vec![strings.len()], strings)]).await;
    opened.gives_back(&[Tensor::from_strings("x", vec![1], [&b""[..]])]).await;
}

#[tokio::test]
async fn scalars_lengths_of_zero_and_eight_axes_are_shapes_like_others() {
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
    opened.gives_back(&tensors).await;
}

#[tokio::test]
async fn inputs_are_told_apart_by_name_and_truth_is_one_or_zero() {
    let Some(mut opened) = open(onnx::of_two("Sub", Datatype::Fp64)).await else { return };
    let number = |name: &str, value: f64| tensor(name, Datatype::Fp64, &[1], value.to_le_bytes().to_vec());
    let outputs = opened.session.run(&[&[number("b", 0.25), number("a", 1.0)]], pending()).await.unwrap();
    assert_eq!(outputs[0].data, 0.75_f64.to_le_bytes().to_vec());
    let Some(mut opened) = open(onnx::identities(&[("x", Datatype::Bool, &[-1])])).await else { return };
    let outputs = opened.session.run(&[&[tensor("x", Datatype::Bool, &[3], vec![0, 1, 7])]], pending()).await.unwrap();
    assert_eq!(outputs[0].data, Bytes::from_static(&[0, 1, 1]));
}

#[tokio::test]
async fn outputs_that_are_no_tensors_are_left_out_and_named() {
    let Some(mut opened) = open(onnx::zip_map(true)).await else { return };
    let left_out = "output \"probabilities\" is a sequence (a map from i64 to f32), and only tensors are served";
    assert_eq!(opened.hello.left_out, [left_out]);
    let input = Tensor::from_f32("x", Datatype::Fp32, vec![2, 2], &[0.1, 0.9, 0.8, 0.2]).unwrap();
    let outputs = opened.session.run(&[&[input]], pending()).await.unwrap();
    assert_eq!(outputs, [Tensor::from_f32("label", Datatype::Int64, vec![2, 1], &[1.0, 0.0]).unwrap()]);
    let Some(opened) = open(onnx::four_bits(false)).await else { return };
    assert_eq!(opened.hello.left_out, ["output \"y\" has the element type i4, which is not served"]);
    assert_eq!(opened.hello.outputs.len(), 1);
}

#[tokio::test]
async fn a_graph_that_cannot_be_asked_or_cannot_answer_is_refused_with_the_reason() {
    for (graph, words) in [
        (onnx::zip_map(false), "no output can be served: output \"probabilities\" is a sequence"),
        (onnx::first_of_sequence(), "input \"tensors\" is a sequence (a tensor of f32), and only tensors are served"),
        (onnx::four_bits(true), "input \"x\" has the element type i4, which is not served"),
        (onnx::identities(&[("x", Datatype::Int8, &[1; 9])]), "input \"x\" has 9 axes, and at most 8 are served"),
    ] {
        let Some(reason) = refusal(graph).await else { return };
        assert!(reason.starts_with(words), "{reason}");
    }
}

#[tokio::test]
async fn a_first_run_that_is_refused_counts_only_where_nothing_was_guessed() {
    let Some(mut opened) = open(onnx::two_by_three(-1)).await else { return };
    let six = Tensor::from_f32("x", Datatype::Fp32, vec![6], &[1., 2., 3., 4., 5., 6.]).unwrap();
    let outputs = opened.session.run(&[&[six]], pending()).await.unwrap();
    assert_eq!(outputs[0].shape, [2, 3]);
    let five = Tensor::from_f32("x", Datatype::Fp32, vec![5], &[0.0; 5]).unwrap();
    assert!(matches!(opened.session.run(&[&[five]], pending()).await, Err(SessionError::Refused(_))));
    let Some(told) = open_with(onnx::two_by_three(-1), &[("x", &[5])]).await else { return };
    let reason = told.err().unwrap().to_string();
    assert!(reason.starts_with("the first run failed: "), "{reason}");
}

#[tokio::test]
async fn a_division_by_an_input_survives_its_first_run() {
    let Some(mut opened) = open(onnx::of_two("Div", Datatype::Int64)).await else { return };
    let number = |name: &str, value: f32| Tensor::from_f32(name, Datatype::Int64, vec![1], &[value]).unwrap();
    let outputs = opened.session.run(&[&[number("a", 7.0), number("b", 2.0)]], pending()).await.unwrap();
    assert_eq!(outputs[0].to_f32(), [3.0]);
}

#[tokio::test]
async fn a_graph_without_a_rank_takes_what_the_settings_say() {
    let Some(opened) = open_with(onnx::any_rank(), &[("x", &[-1, 4])]).await else { return };
    let mut opened = opened.unwrap();
    assert_eq!(opened.hello.inputs[0].shape, [0_i64; 0], "as ONNX Runtime shows it");
    let input = Tensor::from_f32("x", Datatype::Fp32, vec![2, 4], &[0.5; 8]).unwrap();
    assert_eq!(opened.session.run(&[&[input]], pending()).await.unwrap()[0].shape, [2, 4]);
}

#[tokio::test]
async fn an_input_with_a_default_is_optional_and_may_be_given() {
    let Some(mut opened) = open(onnx::with_default()).await else { return };
    let optional: Vec<_> =
        opened.hello.inputs.iter().map(|input| (input.name.as_str(), input.parameters.optional)).collect();
    assert_eq!(optional, [("x", false), ("gain", true)]);
    assert_eq!(opened.hello.inputs[1].shape, [0_i64; 0]);
    let x = Tensor::from_f32("x", Datatype::Fp32, vec![1, 3], &[1.0, 2.0, 3.0]).unwrap();
    let gain = Tensor::from_f32("gain", Datatype::Fp32, vec![], &[5.0]).unwrap();
    let left_out = opened.session.run(&[std::slice::from_ref(&x)], pending()).await.unwrap();
    assert_eq!(left_out[0].to_f32(), [2.0, 4.0, 6.0]);
    let given = opened.session.run(&[&[x.clone(), gain]], pending()).await.unwrap();
    assert_eq!(given[0].to_f32(), [5.0, 10.0, 15.0]);
    let again = opened.session.run(&[&[x]], pending()).await.unwrap();
    assert_eq!(again[0].to_f32(), [2.0, 4.0, 6.0], "what one request gives is not kept for the next");
}

#[tokio::test]
async fn a_constant_that_old_files_list_among_the_inputs_is_none() {
    let Some(opened) = open(onnx::with_listed_constant()).await else { return };
    assert_eq!(opened.hello.inputs.iter().map(|input| input.name.as_str()).collect::<Vec<_>>(), ["x"]);
}
