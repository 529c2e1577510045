use super::*;
use crate::onnx::proto::{Attribute, Dimension, Length, OperatorSet, Shape, TensorType, Type, ValueInfo};

fn node(op: &str, inputs: &str, outputs: &str, attributes: Vec<Attribute>) -> Node {
    let names = |names: &str| names.split_whitespace().map(str::to_owned).collect();
    let (domain, op_type) = op.rsplit_once('/').unwrap_or(("", op));
    Node {
        input: names(inputs),
        output: names(outputs),
        op_type: op_type.to_owned(),
        domain: domain.to_owned(),
        attribute: attributes,
        ..Node::default()
    }
}

fn int(name: &str, i: i64) -> Attribute {
    Attribute { name: name.to_owned(), i, ..Attribute::default() }
}

fn text(name: &str, s: &'static str) -> Attribute {
    Attribute { name: name.to_owned(), s: s.into(), ..Attribute::default() }
}

fn ints(name: &str, ints: &[i64]) -> Attribute {
    Attribute { name: name.to_owned(), ints: ints.to_vec(), ..Attribute::default() }
}

fn floats(name: &str, floats: &[f32]) -> Attribute {
    Attribute { name: name.to_owned(), floats: floats.to_vec(), ..Attribute::default() }
}

/// An axis of −1 is open.
fn value(name: &str, elem_type: i32, shape: &[i64]) -> ValueInfo {
    let dimension = |&length: &i64| Dimension { value: (length >= 0).then_some(Length::Fixed(length)) };
    let shape = Some(Shape { dim: shape.iter().map(dimension).collect() });
    ValueInfo {
        name: name.to_owned(),
        r#type: Some(Type { tensor_type: Some(TensorType { elem_type, shape }), ..Type::default() }),
    }
}

fn model(opset: i64, node: Vec<Node>, value_info: Vec<ValueInfo>, output: Vec<ValueInfo>) -> Model {
    let opset = OperatorSet { domain: String::new(), version: opset };
    let graph = Graph { node, output, value_info, ..Graph::default() };
    Model { graph: Some(graph), opset_import: vec![opset], ..Model::default() }
}

/// The task and activation of the one output, `y`, of this shape.
fn of(opset: i64, nodes: Vec<Node>, shape: &[i64]) -> Option<(Task, Option<Activation>)> {
    let tasks = derive_tasks(&model(opset, nodes, Vec::new(), vec![value("y", 1, shape)]));
    tasks.get("y").map(|derived| (derived.task, derived.activation))
}

const PROBABILITY: Option<Activation> = Some(Activation::None);

#[test]
fn a_final_softmax_over_classes_is_a_classification() {
    let softmax = |axis| vec![node("Softmax", "x", "y", vec![int("axis", axis)])];
    let classes = Some((Task::Classification, PROBABILITY));
    assert_eq!(of(13, softmax(-1), &[-1, 10]), classes);
    assert_eq!(of(17, softmax(1), &[-1, 10]), classes);
    assert_eq!(of(13, vec![node("Softmax", "x", "y", vec![])], &[-1, 10]), classes, "the last axis");
    assert_eq!(of(11, vec![node("Softmax", "x", "y", vec![])], &[-1, 10]), classes, "axis 1 and all behind it");
    assert_eq!(of(13, softmax(1), &[-1, 10, 1, 1]), classes);
    assert_eq!(of(13, softmax(-1), &[1, 1, 10]), classes);
    let behind =
        vec![node("Softmax", "x", "p", vec![]), node("Cast", "p", "q", vec![]), node("Identity", "q", "y", vec![])];
    assert_eq!(of(13, behind, &[-1, 10]), classes);
}

#[test]
fn a_softmax_over_another_axis_is_no_classification() {
    let softmax = |axis| vec![node("Softmax", "x", "y", vec![int("axis", axis)])];
    let unknown = Some((Task::None, PROBABILITY));
    assert_eq!(of(13, softmax(0), &[-1, 10]), unknown, "over the rows");
    assert_eq!(of(13, softmax(-1), &[-1, 7, 10]), unknown, "for each word");
    assert_eq!(of(13, softmax(1), &[-1, 3, 64, 64]), unknown, "for each pixel");
    assert_eq!(of(11, softmax(0), &[-1, 10]), unknown);
}

#[test]
fn log_probabilities_are_scores_of_classes() {
    let nodes = vec![node("LogSoftmax", "x", "y", vec![int("axis", 1)])];
    assert_eq!(of(13, nodes, &[-1, 10]), Some((Task::Classification, None)));
}

#[test]
fn a_final_sigmoid_is_binary_or_multi_label_and_a_map_is_neither() {
    let sigmoid = || vec![node("Sigmoid", "x", "y", vec![])];
    assert_eq!(of(13, sigmoid(), &[-1, 1]), Some((Task::Classification, PROBABILITY)));
    assert_eq!(of(13, sigmoid(), &[-1]), Some((Task::Classification, PROBABILITY)));
    assert_eq!(of(13, sigmoid(), &[-1, 14]), Some((Task::MultiLabel, PROBABILITY)));
    for shape in [&[-1, 1, 64, 64][..], &[-1, 3, 64, 64], &[-1, 25_200, 85], &[-1, -1], &[2]] {
        assert_eq!(of(13, sigmoid(), shape), Some((Task::None, PROBABILITY)), "{shape:?}");
    }
}

#[test]
fn the_shape_before_a_reshape_decides() {
    let nodes = || vec![node("Softmax", "x", "p", vec![int("axis", 1)]), node("Flatten", "p", "y", vec![])];
    let before = |shape: &[i64]| {
        let model = model(13, nodes(), vec![value("p", 1, shape)], vec![value("y", 1, &[-1, 12])]);
        derive_tasks(&model)["y"].task
    };
    assert_eq!(before(&[-1, 12, 1, 1]), Task::Classification);
    assert_eq!(before(&[-1, 3, 2, 2]), Task::None, "a map of classes, flattened");
    assert_eq!(of(13, nodes(), &[-1, 12]), Some((Task::None, PROBABILITY)), "unknown");
}

#[test]
fn logits_and_class_numbers_have_no_task() {
    assert_eq!(of(13, vec![node("Gemm", "x w b", "y", vec![])], &[-1, 10]), None);
    let model = model(13, vec![node("ArgMax", "x", "y", vec![])], Vec::new(), vec![value("y", INT64, &[-1])]);
    assert!(derive_tasks(&model).is_empty());
}

#[test]
fn every_output_after_a_non_maximum_suppression_is_a_detection() {
    let nodes = vec![
        node("Sigmoid", "x", "scores", vec![]),
        node("NonMaxSuppression", "boxes scores", "chosen", vec![]),
        node("Gather", "scores chosen", "y", vec![]),
        node("Gather", "boxes chosen", "b", vec![]),
    ];
    let outputs = vec![value("y", 1, &[-1, 4]), value("b", 1, &[-1, 4]), value("chosen", INT64, &[-1, 3])];
    let tasks = derive_tasks(&model(13, nodes, Vec::new(), outputs));
    assert!(["y", "b", "chosen"].iter().all(|name| tasks[*name].task == Task::Detection), "{tasks:?}");
    let body = Graph { node: vec![node("NonMaxSuppression", "b s", "c", vec![])], ..Graph::default() };
    let branch = Attribute { name: "then_branch".to_owned(), g: Some(body), ..Attribute::default() };
    assert_eq!(of(13, vec![node("If", "x", "y", vec![branch])], &[-1, 4]).unwrap().0, Task::Detection);
}

/// The probabilities of scikit-learn's pair, whose classifier is `op` with these attributes.
fn pair(op: &str, attributes: Vec<Attribute>, more: Vec<Node>) -> BTreeMap<String, DerivedTask> {
    let scores = if more.is_empty() { "probabilities" } else { "scores" };
    let mut nodes = vec![node(&format!("ai.onnx.ml/{op}"), "x", &format!("label {scores}"), attributes)];
    nodes.extend(more);
    let outputs = vec![value("label", INT64, &[-1]), value("probabilities", 1, &[-1, 2])];
    derive_tasks(&model(17, nodes, Vec::new(), outputs))
}

#[test]
fn the_probabilities_of_a_label_and_probabilities_pair_are_the_classification() {
    let strings = Attribute {
        name: "classlabels_strings".to_owned(),
        strings: vec!["cat".into(), "dog".into()],
        ..Attribute::default()
    };
    let normalizer = vec![node("ai.onnx.ml/Normalizer", "scores", "probabilities", vec![text("norm", "L1")])];
    let logistic = pair("LinearClassifier", vec![text("post_transform", "LOGISTIC"), strings], normalizer);
    assert_eq!(logistic.len(), 1, "the label is no list of scores: {logistic:?}");
    let expected = DerivedTask {
        labels: vec!["cat".to_owned(), "dog".to_owned()],
        ..DerivedTask::new(Task::Classification, PROBABILITY)
    };
    assert_eq!(logistic["probabilities"], expected);
    let numbers = vec![text("post_transform", "SOFTMAX"), ints("classlabels_int64s", &[3, 7])];
    assert_eq!(pair("TreeEnsembleClassifier", numbers, vec![])["probabilities"].labels, ["3", "7"]);
    let three = vec![text("post_transform", "SOFTMAX"), ints("classlabels_int64s", &[1, 2, 3])];
    assert!(pair("TreeEnsembleClassifier", three, vec![])["probabilities"].labels.is_empty(), "not two");
}

#[test]
fn a_classifier_without_post_transform_gives_scores() {
    let decision = pair("LinearClassifier", vec![], vec![])["probabilities"].clone();
    assert_eq!((decision.task, decision.activation), (Task::Classification, None));
    assert_eq!(pair("SVMClassifier", vec![], vec![])["probabilities"].activation, None);
    let platt = vec![floats("prob_a", &[-1.0])];
    assert_eq!(pair("SVMClassifier", platt, vec![])["probabilities"].activation, PROBABILITY);
}

#[test]
fn a_random_forest_averages_probabilities_and_boosted_trees_do_not() {
    let forest = |classes: &[i64], weights: &[f32]| {
        let attributes = vec![
            ints("class_treeids", &[0, 0, 1, 1]),
            ints("class_nodeids", &[1, 1, 2, 2]),
            ints("class_ids", classes),
            floats("class_weights", weights),
        ];
        pair("TreeEnsembleClassifier", attributes, vec![])["probabilities"].activation
    };
    assert_eq!(forest(&[0, 1, 0, 1], &[0.5, 0.0, 0.125, 0.375]), PROBABILITY);
    assert_eq!(forest(&[0, 1, 0, 1], &[0.5, 0.25, 0.125, 0.375]), None, "a leaf that adds up to more");
    assert_eq!(forest(&[0, 1, 0, 1], &[0.75, -0.25, 0.125, 0.375]), None);
    assert_eq!(forest(&[0, 0, 0, 0], &[0.5, 0.25, 0.0, 0.375]), PROBABILITY, "weights of one class alone");
    assert_eq!(forest(&[0, 0, 0, 0], &[0.75, 0.25, 0.0, 0.375]), None);
}

#[test]
fn regressors_are_regressions() {
    for op in ["TreeEnsembleRegressor", "LinearRegressor", "SVMRegressor"] {
        let nodes = vec![node(&format!("ai.onnx.ml/{op}"), "x", "v", vec![]), node("Identity", "v", "y", vec![])];
        assert_eq!(of(17, nodes, &[-1, 1]), Some((Task::Regression, None)), "{op}");
    }
    let outlier = vec![node("ai.onnx.ml/SVMRegressor", "x", "y", vec![int("one_class", 1)])];
    assert_eq!(of(17, outlier, &[-1, 1]), None);
}

#[test]
fn probabilities_beside_a_label_are_recognised_by_name() {
    let nodes = vec![node("Exp", "log", "probabilities", vec![]), node("Cast", "l", "label", vec![])];
    let outputs = |label: &str| vec![value(label, INT64, &[-1]), value("probabilities", 1, &[-1, 3])];
    let derived = |label| derive_tasks(&model(17, nodes.clone(), Vec::new(), outputs(label)));
    assert_eq!(derived("label")["probabilities"], DerivedTask::new(Task::Classification, None));
    assert!(derived("count").is_empty());
}
