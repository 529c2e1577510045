use super::super::training_mode::{is_used, overwritten_initializer};
use super::*;

const NORMALISES: &str = "BatchNormalization x s b m v -> y rm rv";

#[test]
fn only_batch_normalization_in_training_mode_overwrites_initializers() {
    let is_training = |nodes: &str| is_used(&model("x:n,4", nodes, "y", "s:4 b:4 m:4 v:4"));
    assert!(is_training(&format!("{NORMALISES} training_mode=1")));
    assert!(!is_training("BatchNormalization x s b m v -> y"));
    assert!(!is_training("Relu x -> y"));
}

#[test]
fn an_initializer_that_is_overwritten_and_read_is_reported() {
    let training = format!("{NORMALISES} training_mode=1");
    let found =
        |nodes: &str, outputs: &str| overwritten_initializer(&model("x:n,4", nodes, outputs, "s:4 b:4 m:4 v:4"));
    assert_eq!(found(&training, "y"), None);
    assert_eq!(found(&training.replace("s b m v", "s m m v"), "y").as_deref(), Some("m"), "as the bias");
    assert_eq!(found(&format!("{training}; Add y v -> z"), "z").as_deref(), Some("v"), "by another node");
    assert_eq!(found("BatchNormalization x s m m v -> y", "y"), None, "not in training");
}
