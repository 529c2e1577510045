use super::*;

#[test]
fn random_operators_that_reach_an_output_are_found() {
    for (nodes, name) in [
        ("RandomNormalLike x -> r; Add x r -> y", "RandomNormalLike \"r\""),
        ("RandomUniform -> r shape=[1,4]; Add x r -> y", "RandomUniform \"r\""),
        ("RandomNormal -> r shape=[1,4] seed=1; Add x r -> y", "RandomNormal \"r\""),
        ("Bernoulli x -> y", "Bernoulli \"y\""),
        ("Multinomial x -> y", "Multinomial \"y\""),
        ("ReduceMax x -> on; Dropout x _ on -> y", "Dropout \"y\""),
    ] {
        let found = facts("x:n,4", nodes, "y", "");
        let reason = format!("{name} draws random numbers");
        assert_eq!(found.random.as_deref(), Some(reason.as_str()), "{nodes}");
        assert_eq!(found.rows, RowAnalysis::Dependent(reason), "{nodes}");
    }
}

#[test]
fn random_operators_that_reach_no_output_are_ignored() {
    for nodes in [
        "RandomNormalLike x -> r; Relu x -> y",
        "RandomNormalLike x -> r; Shape r -> s; Reshape x s -> y",
        "Dropout x -> y",
        "Dropout x half -> y",
        "Dropout x half off -> y",
    ] {
        let found = facts("x:n,4", nodes, "y", "half: off=0");
        assert_eq!((found.random, found.rows), (None, RowAnalysis::Independent), "{nodes}");
    }
}

#[test]
fn a_constant_input_decides_whether_dropout_is_in_training_mode() {
    let dropout = |value: i32| {
        let mut made = model("x:n,4", "Dropout x _ on -> y", "y", "");
        let on = Tensor { name: "on".to_owned(), data_type: 9, int32_data: vec![value], ..Tensor::default() };
        made.graph.as_mut().unwrap().initializer.push(on);
        analyse(&made).random
    };
    assert_eq!(dropout(0), None);
    assert_eq!(dropout(1), Some("Dropout \"y\" draws random numbers".to_owned()));
    let mut old = model("x:n,4", "Dropout x -> y", "y", "");
    old.opset_import = vec![set("", 6)];
    assert!(analyse(&old).random.is_some());
    old.graph.as_mut().unwrap().node[0].attribute = vec![attribute("is_test=1")];
    assert_eq!(analyse(&old).random, None);
}

#[test]
fn random_operators_are_found_in_branches_and_functions() {
    let draws = graph("", "RandomNormalLike x -> r", "r", "");
    let same = graph("", "Identity x -> i", "i", "");
    let branches = vec![body("then_branch", same), body("else_branch", draws)];
    let made = with_bodies(model("x:n,4", "If on -> y", "y", "on:"), "y", branches);
    assert_eq!(analyse(&made).random, Some("RandomNormalLike \"r\" draws random numbers".to_owned()));

    let mut made = model("x:n,4", "made::Noise x -> y", "y", "");
    made.functions = vec![crate::onnx::proto::Function {
        domain: "made".to_owned(),
        name: "Noise".to_owned(),
        input: vec!["a".to_owned()],
        output: vec!["b".to_owned()],
        node: vec![node("Bernoulli a -> b")],
        ..Default::default()
    }];
    assert_eq!(analyse(&made).random, Some("Bernoulli \"b\" draws random numbers".to_owned()));
}

#[test]
fn an_input_with_a_default_counts_as_a_constant() {
    let made = model("x:n,4 scale:", "Mul x scale -> y", "y", "scale:");
    assert_eq!(rows(&made), RowAnalysis::Independent);
}
