//! Damaged and hostile graphs are analysed without a panic, and prove nothing.

use std::fmt::Write as _;

use super::*;

const X: &str = "x:n,4";

#[test]
fn damaged_graphs_prove_nothing() {
    assert!(matches!(rows(&Model::default()), RowAnalysis::Unknown(_)));
    assert_unknown(X, "Relu nowhere -> y", "");
    assert_unknown(X, "Relu x -> other", "");
    assert_unknown(X, "Add x b -> a; Relu a -> b; Relu b -> y", "");
    assert_unknown(X, "Relu y -> y", "");
    for kind in OPERATORS.split_whitespace() {
        for inputs in [
            "",
            "x",
            "x x",
            "x w",
            "w x",
            "x x x",
            "x w w w",
            "_ x",
            "w w w",
            "w axes",
            "x axes",
            "x axes axes axes axes",
        ] {
            for attributes in ["", EXTREMES] {
                let nodes = format!("{kind} {inputs} -> y z {attributes}");
                drop(rows(&model(X, &nodes, "y", "w:4,4 axes=[-9223372036854775808,5]")));
            }
        }
    }
}

const OPERATORS: &str = "Add Gemm MatMul Reshape Transpose Slice Gather Concat Split Conv LSTM If Loop Scan TopK Pad Tile Resize OneHot \
    Range Einsum Where GatherND ReduceMax LayerNormalization BatchNormalization QuantizeLinear Constant ConstantOfShape Shape \
    Squeeze MaxPool CumSum Attention Compress";

const EXTREMES: &str =
    "axis=99 axes=[-77,9223372036854775807] perm=[0,0] kernel_shape=[0] strides=[0,0] pads=[9223372036854775807]";

#[test]
fn extreme_numbers_cause_no_overflow() {
    let many = format!("w:{}", vec!["9223372036854775807"; 40].join(","));
    assert_unknown(X, "Add x w -> y", &many);
    assert_unknown(X, "Reshape x t -> y", "t=[9223372036854775807,9223372036854775807,-1]");
    drop(rows(&model(X, "Tile x t -> y", "y", "t=[9223372036854775807,-9223372036854775808]")));
    let shape = "Shape x -> s; Mul s s -> a; Mul a a -> b; Mul b b -> c; Mul c c -> d; Mul d d -> e; Reshape x e -> y";
    assert_unknown(X, shape, "");
    let slice = "Slice x a b a b -> y";
    drop(rows(&model(X, slice, "y", "a=[-9223372036854775808] b=[9223372036854775807]")));
    drop(rows(&model(X, slice, "y", "a=[1] b=[-9223372036854775808]")));
}

#[test]
fn large_and_deep_graphs_terminate() {
    let mut chain = String::from("Relu x -> t0;");
    for place in 1..50_000 {
        let _ = write!(chain, "Add t{} t{} -> t{place};", place - 1, place - 1);
    }
    assert_independent(X, &format!("{chain} Relu t49999 -> y"), "");

    // Each loop evaluates the one inside it several times.
    let mut inner = graph("i on before", "Identity on -> still; Tanh before -> after", "still after", "");
    for _ in 0..20 {
        let mut outer = graph("i on before", "Identity on -> still; Loop three _ before -> after", "still after", "");
        outer.node[1].attribute = vec![body("body", inner)];
        inner = outer;
    }
    let made = with_bodies(model(X, "Loop three _ x -> y", "y", "three=3"), "y", vec![body("body", inner)]);
    assert_eq!(rows(&made), RowAnalysis::Independent);
}

#[test]
fn recursive_functions_terminate() {
    let mut made = model(X, "made::Again x -> y", "y", "");
    made.functions = vec![crate::onnx::proto::Function {
        domain: "made".to_owned(),
        name: "Again".to_owned(),
        input: vec!["a".to_owned()],
        output: vec!["b".to_owned()],
        node: vec![node("made::Again a -> c"), node("made::Again c -> b")],
        ..Default::default()
    }];
    assert!(matches!(analyse(&made), GraphFacts { rows: RowAnalysis::Unknown(_), random: None, .. }));
}
