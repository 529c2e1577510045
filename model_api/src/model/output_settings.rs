//! Output settings: task, labels and activation of outputs, validated against shape and datatype.

use std::collections::BTreeMap;

use open_inference::{Activation, Datatype, Task, TensorMetadata};

use crate::onnx::analysis::DerivedTask;
use crate::repository::model_settings::TensorSettings;

/// `outputs` with the tasks that the graph analysis derived. If the settings give any output a task, only outputs with settings
/// get derived tasks.
pub fn with_derived_tasks(
    outputs: &[TensorMetadata],
    tasks: &BTreeMap<String, DerivedTask>,
    settings: &[TensorSettings],
) -> Vec<TensorMetadata> {
    let has_named_task =
        settings.iter().any(|declared| declared.parameters.task.is_some_and(|task| task != Task::None));
    let mut outputs = outputs.to_vec();
    for output in &mut outputs {
        let Some(derived) = tasks.get(&output.name) else { continue };
        let is_declared = settings.iter().any(|declared| declared.name == output.name);
        let is_wanted = !has_named_task || is_declared || derived.task == Task::Detection;
        // Probabilities without a known task are useful only with settings.
        if !is_wanted || derived.task == Task::None && !is_declared {
            continue;
        }
        let parameters = &mut output.parameters;
        parameters.task = Some(derived.task).filter(|&task| task != Task::None);
        parameters.activation = derived.activation;
        parameters.labels.clone_from(&derived.labels);
    }
    outputs
}

/// Adds the task that other settings imply: labels and `softmax` imply a classification, `sigmoid` implies multi-label.
pub fn add_implied_task(declared: &TensorSettings, output: &mut TensorMetadata) {
    let classes = class_count(&output.shape);
    let parameters = &mut output.parameters;
    if parameters.task.is_none() && is_float(output.datatype) && is_vector_per_row(&output.shape) {
        parameters.task = match declared.parameters.activation {
            Some(Activation::Sigmoid) => {
                classes.map(|count| if count == 1 { Task::Classification } else { Task::MultiLabel })
            }
            Some(Activation::Softmax) => Some(Task::Classification),
            _ if !parameters.labels.is_empty() => Some(Task::Classification),
            _ => None,
        };
    }
    // A derived activation has no meaning for values that are no scores.
    if !has_scores(parameters.task) && declared.parameters.activation.is_none() {
        parameters.activation = None;
    }
}

/// Validates the settings of an output against its shape and datatype. The error begins with the field's name.
pub fn validate(declared: &TensorSettings, output: &TensorMetadata, subject: &str) -> Result<(), String> {
    check_task(output, subject)?;
    check_labels(output)?;
    let (declared, task) = (&declared.parameters, output.parameters.task);
    let named = task.map_or("an output without a task", Task::name);
    let count = class_count(&output.shape);
    match declared.activation {
        Some(_) if !has_scores(task) => {
            return Err(format!(
                "activation: {named} has no scores; it is for classification, multi_label and segmentation"
            ));
        }
        Some(Activation::Softmax) if task == Some(Task::MultiLabel) => {
            return Err("activation: softmax makes one class right; multi_label needs sigmoid, or none".to_owned());
        }
        Some(Activation::Softmax) if task == Some(Task::Classification) && count == Some(1) => {
            return Err(
                "activation: softmax of one value is always 1; one value for two classes needs sigmoid, or none"
                    .to_owned(),
            );
        }
        _ => {}
    }
    if let Some(threshold) = declared.threshold {
        if !has_scores(task) {
            return Err(format!(
                "threshold: {named} has no scores; it is for classification, multi_label and segmentation"
            ));
        }
        if task == Some(Task::Classification) && count.is_some_and(|count| count > 1) {
            let count = count.unwrap_or_default();
            return Err(format!(
                "threshold: it decides between two classes by one value, and a row has {count} values"
            ));
        }
        // Scores without an activation are unbounded.
        if !threshold.is_finite() || output.parameters.activation.is_some() && !(0.0..=1.0).contains(&threshold) {
            return Err(format!("threshold: {threshold} is not a probability within 0 and 1"));
        }
    }
    if declared.unit.is_some() && task != Some(Task::Regression) {
        return Err(format!("unit: {named} has no unit; it is for regression"));
    }
    Ok(())
}

fn check_task(output: &TensorMetadata, subject: &str) -> Result<(), String> {
    let Some(task) = output.parameters.task else { return Ok(()) };
    let (shape, name) = (&output.shape, task.name());
    // A tensor of unknown rank has an empty shape.
    let is_known = !shape.is_empty();
    match task {
        Task::Detection | Task::None => Ok(()),
        _ if output.datatype == Datatype::Bytes => Err(format!("task: the {subject} has BYTES, which are not numbers")),
        Task::Image if !matches!(shape.len(), 3 | 4) => {
            Err(format!("task: an image has 3 or 4 axes, batch first, not {shape:?}"))
        }
        Task::Segmentation if is_known && !matches!(shape.len(), 2..=4) => {
            Err(format!("task: a segmentation has 2 to 4 axes, N×C×H×W or class numbers N×H×W, not {shape:?}"))
        }
        Task::Classification | Task::MultiLabel | Task::Regression | Task::Embedding if !is_vector_per_row(shape) => {
            Err(format!(
                "task: {name} has one list of values a row, and {shape:?} has more than one axis after the first"
            ))
        }
        _ => Ok(()),
    }
}

fn check_labels(output: &TensorMetadata) -> Result<(), String> {
    let (labels, shape) = (output.parameters.labels.len(), &output.shape);
    if labels == 0 {
        return Ok(());
    }
    let wrong = |classes: i64| Err(format!("labels: {labels} labels for {classes} classes"));
    let is_other = |length: i64| length >= 0 && usize::try_from(length) != Ok(labels);
    match output.parameters.task {
        Some(Task::Classification) => match class_count(shape) {
            Some(1) if labels > 2 => {
                Err(format!("labels: {labels} labels for one value, which decides between two classes"))
            }
            Some(classes) if classes > 1 && is_other(classes) => wrong(classes),
            _ => Ok(()),
        },
        Some(Task::MultiLabel) => class_count(shape).filter(|&classes| is_other(classes)).map_or(Ok(()), wrong),
        Some(Task::Segmentation) => match shape[..] {
            [_, channels, _, last] if channels != 1 && is_other(channels) && (is_other(last) || last < 0) => {
                wrong(channels)
            }
            _ => Ok(()),
        },
        Some(_) => Ok(()),
        None => shape.last().copied().filter(|&classes| is_other(classes)).map_or(Ok(()), wrong),
    }
}

fn has_scores(task: Option<Task>) -> bool {
    matches!(task, Some(Task::Classification | Task::MultiLabel | Task::Segmentation))
}

fn is_float(datatype: Datatype) -> bool {
    matches!(datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64)
}

/// Whether each row is a vector: after the first axis, at most one axis is open or longer than 1.
fn is_vector_per_row(shape: &[i64]) -> bool {
    shape.iter().skip(1).filter(|&&length| length != 1).count() <= 1
}

/// The number of values of a row; `None` if it is open or the rank is unknown. A tensor with one fixed axis is one row.
fn class_count(shape: &[i64]) -> Option<i64> {
    match shape {
        [] => None,
        [length] if *length > 1 => Some(*length),
        [_] => Some(1),
        [_, row @ ..] => row.iter().all(|&length| length >= 0).then(|| row.iter().product()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::model_settings::ModelSettings;

    fn settings(parameters: &str) -> TensorSettings {
        let json = format!(r#"{{"outputs": [{{"name": "y", "parameters": {parameters}}}]}}"#);
        ModelSettings::from_json(json.as_bytes(), "m").unwrap().outputs.remove(0)
    }

    /// An output without derived facts, merged with these settings.
    fn output(declared: &TensorSettings, datatype: Datatype, shape: &[i64]) -> TensorMetadata {
        let mut output = TensorMetadata::new("y", datatype, shape);
        let parameters = &mut output.parameters;
        parameters.task = declared.parameters.task;
        parameters.activation = declared.parameters.activation;
        parameters.labels.clone_from(&declared.parameters.labels);
        add_implied_task(declared, &mut output);
        output
    }

    fn checked(parameters: &str, shape: &[i64]) -> Result<Option<Task>, String> {
        let declared = settings(parameters);
        let output = output(&declared, Datatype::Fp32, shape);
        validate(&declared, &output, "graph").map(|()| output.parameters.task)
    }

    #[test]
    fn labels_and_activations_imply_a_task() {
        assert_eq!(checked(r#"{"labels": ["a", "b"]}"#, &[-1, 2]), Ok(Some(Task::Classification)));
        assert_eq!(checked(r#"{"activation": "softmax"}"#, &[-1, 2]), Ok(Some(Task::Classification)));
        assert_eq!(checked(r#"{"activation": "sigmoid"}"#, &[-1, 2]), Ok(Some(Task::MultiLabel)));
        assert_eq!(checked(r#"{"activation": "sigmoid"}"#, &[-1, 1]), Ok(Some(Task::Classification)));
        assert_eq!(checked("{}", &[-1, 2]), Ok(None));
        let declared = settings(r#"{"labels": ["a"]}"#);
        assert_eq!(output(&declared, Datatype::Int64, &[-1]).parameters.task, None, "class indices are no scores");
    }

    #[test]
    fn labels_match_the_classes_of_their_task() {
        for (parameters, shape) in [
            (r#"{"labels": ["a", "b"]}"#, &[-1, 2, 1, 1][..]),
            (r#"{"labels": ["a", "b"]}"#, &[-1, 1, 1, 2]),
            (r#"{"labels": ["a", "b"]}"#, &[-1, 1]),
            (r#"{"labels": ["a", "b"]}"#, &[-1]),
            (r#"{"labels": ["a"]}"#, &[-1, 1]),
            (r#"{"labels": ["a", "b", "c"]}"#, &[-1, -1]),
            (r#"{"task": "segmentation", "labels": ["a", "b", "c"]}"#, &[-1, 3, -1, -1]),
            (r#"{"task": "segmentation", "labels": ["a", "b", "c"]}"#, &[-1, 64, 64, 3]),
            (r#"{"task": "segmentation", "labels": ["a", "b", "c"]}"#, &[-1, 64, 64]),
            (r#"{"task": "detection", "labels": ["a", "b", "c"]}"#, &[-1, 6]),
        ] {
            assert!(checked(parameters, shape).is_ok(), "{parameters} {shape:?}");
        }
    }

    #[test]
    fn a_contradiction_names_its_field() {
        for (parameters, shape, words) in [
            (r#"{"labels": ["a"]}"#, &[-1, 3, 1, 1][..], "labels: 1 labels for 3 classes"),
            (r#"{"labels": ["a", "b", "c"]}"#, &[-1, 1], "labels: 3 labels for one value"),
            (r#"{"task": "multi_label", "labels": ["a"]}"#, &[-1, 2], "labels: 1 labels for 2 classes"),
            (r#"{"task": "segmentation", "labels": ["a"]}"#, &[-1, 3, 64, 64], "labels: 1 labels for 3 classes"),
            (r#"{"task": "classification"}"#, &[-1, 3, 64], "task: classification has one list of values a row"),
            (r#"{"task": "embedding"}"#, &[-1, 3, 64], "task: embedding has one list of values a row"),
            (r#"{"task": "image"}"#, &[-1, 3], "task: an image has 3 or 4 axes"),
            (r#"{"task": "segmentation"}"#, &[-1], "task: a segmentation has 2 to 4 axes"),
            (r#"{"task": "regression", "activation": "sigmoid"}"#, &[-1, 1], "activation: regression has no scores"),
            (r#"{"activation": "sigmoid"}"#, &[-1, -1], "activation: an output without a task has no scores"),
            (r#"{"task": "classification", "activation": "softmax"}"#, &[-1, 1], "activation: softmax of one value"),
            (
                r#"{"task": "multi_label", "activation": "softmax"}"#,
                &[-1, 2],
                "activation: softmax makes one class right",
            ),
            (r#"{"task": "multi_label", "activation": "none", "threshold": 1.5}"#, &[-1, 2], "threshold: 1.5 is not"),
            (r#"{"task": "classification", "threshold": 0.5}"#, &[-1, 3], "threshold: it decides between two classes"),
            (r#"{"task": "image", "threshold": 0.5}"#, &[-1, 3, 4, 4], "threshold: image has no scores"),
            (r#"{"task": "classification", "unit": "kg"}"#, &[-1, 3], "unit: classification has no unit"),
        ] {
            let error = checked(parameters, shape).unwrap_err();
            assert!(error.starts_with(words), "{parameters}: {error}");
        }
        let declared = settings(r#"{"task": "classification"}"#);
        let text = output(&declared, Datatype::Bytes, &[-1]);
        assert_eq!(
            validate(&declared, &text, "graph").unwrap_err(),
            "task: the graph has BYTES, which are not numbers"
        );
    }

    #[test]
    fn scores_may_have_any_threshold() {
        assert!(checked(r#"{"task": "multi_label", "threshold": -1.5}"#, &[-1, 2]).is_ok());
    }

    #[test]
    fn a_declared_task_suppresses_derived_tasks_of_other_outputs() {
        let declared = |parameters| TensorSettings { name: "p".to_owned(), ..settings(parameters) };
        let outputs = ["q", "p"].map(|name| TensorMetadata::new(name, Datatype::Fp32, &[-1, 4]));
        let task = |task| DerivedTask { task, activation: Some(Activation::None), labels: Vec::new() };
        let tasks = outputs.iter().map(|output| (output.name.clone(), task(Task::MultiLabel))).collect();
        let of = |settings: &[TensorSettings]| {
            with_derived_tasks(&outputs, &tasks, settings)
                .iter()
                .map(|output| output.parameters.task)
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), [Some(Task::MultiLabel); 2]);
        assert_eq!(of(&[declared(r#"{"task": "regression"}"#)]), [None, Some(Task::MultiLabel)]);
        assert_eq!(
            of(&[declared(r#"{"task": "none"}"#)]),
            [Some(Task::MultiLabel); 2],
            "`none` does not affect others"
        );
    }
}
