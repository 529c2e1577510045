//! Selection of the output of a typed result.

use open_inference::{Task, Tensor, TensorMetadata};

/// Selects the output with its task and tensor: the first output with a task and labels, otherwise the first with a
/// task. `None` if there is none, if all outputs belong to detections, or if the tensor is missing or has another
/// datatype.
pub(super) fn select_output<'a>(
    tensors: &'a [Tensor],
    outputs: &'a [TensorMetadata],
) -> Option<(Task, &'a TensorMetadata, &'a Tensor)> {
    let (task, output) = task_and_output(outputs);
    let output = output?;
    let tensor = tensors.iter().find(|tensor| tensor.name == output.name && tensor.datatype == output.datatype)?;
    Some((task, output, tensor))
}

/// Task and output of results of a model with these outputs. The output is `None` if all outputs are the result.
pub(super) fn task_and_output(outputs: &[TensorMetadata]) -> (Task, Option<&TensorMetadata>) {
    let with_task = || outputs.iter().filter(|output| task_of(output) != Task::None);
    let labelled = with_task().find(|output| !output.parameters.labels.is_empty());
    let Some(output) = labelled.or_else(|| with_task().next()) else { return (Task::None, None) };
    let task = task_of(output);
    (task, (task != Task::Detection).then_some(output))
}

/// Task in the metadata. Labels alone make class scores a classification.
fn task_of(output: &TensorMetadata) -> Task {
    let implied = || {
        let is_scores = output.datatype.is_float() && !output.parameters.labels.is_empty();
        if is_scores && is_list(&output.shape) { Task::Classification } else { Task::None }
    };
    output.parameters.task.unwrap_or_else(implied)
}

/// First output, if no task is known and it has the shape of scores of at least two classes.
pub(super) fn unlabelled_scores(outputs: &[TensorMetadata]) -> Option<&TensorMetadata> {
    let first = outputs.first()?;
    let is_unknown = outputs.iter().all(|output| output.parameters.task.is_none()) && first.datatype.is_float();
    (is_unknown && first.shape.len() != 1 && is_list(&first.shape)).then_some(first)
}

/// Whether a row, that is all but the first axis, has at most one axis of another length than 1.
fn is_list(shape: &[i64]) -> bool {
    shape.iter().skip(1).filter(|&&length| length != 1).count() <= 1
}
