use open_inference::{Datatype, Task, Tensor, TensorMetadata};

/// The output that is read, with its task: the first with a task and labels, else the first with a task. `None` where there is
/// none, where all outputs belong to detections, or where the tensor is missing or of another datatype.
pub(super) fn select_output<'a>(
    tensors: &'a [Tensor],
    outputs: &'a [TensorMetadata],
) -> Option<(Task, &'a TensorMetadata, &'a Tensor)> {
    let (task, output) = task_and_output(outputs);
    let output = output?;
    let tensor = tensors.iter().find(|tensor| tensor.name == output.name && tensor.datatype == output.datatype)?;
    Some((task, output, tensor))
}

/// What results of a model with these outputs are, and the output that is read; all of them are where there is none.
pub(super) fn task_and_output(outputs: &[TensorMetadata]) -> (Task, Option<&TensorMetadata>) {
    let with_task = || outputs.iter().filter(|output| task_of(output) != Task::None);
    let labelled = with_task().find(|output| !output.parameters.labels.is_empty());
    let Some(output) = labelled.or_else(|| with_task().next()) else { return (Task::None, None) };
    let task = task_of(output);
    (task, (task != Task::Detection).then_some(output))
}

/// What the metadata say. Labels alone make scores of classes a classification.
fn task_of(output: &TensorMetadata) -> Task {
    let implied = || {
        let is_scores = is_float(output.datatype) && !output.parameters.labels.is_empty();
        if is_scores && is_list(&output.shape) { Task::Classification } else { Task::None }
    };
    output.parameters.task.unwrap_or_else(implied)
}

/// The first output, where nothing is known of what it is and it has the shape of scores of two or more classes.
pub(super) fn unlabelled_scores(outputs: &[TensorMetadata]) -> Option<&TensorMetadata> {
    let first = outputs.first()?;
    let is_unknown = outputs.iter().all(|output| output.parameters.task.is_none()) && is_float(first.datatype);
    (is_unknown && first.shape.len() != 1 && is_list(&first.shape)).then_some(first)
}

fn is_float(datatype: Datatype) -> bool {
    matches!(datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64)
}

/// Whether a row, everything but the first axis, has at most one axis that is longer than 1, or open.
fn is_list(shape: &[i64]) -> bool {
    shape.iter().skip(1).filter(|&&length| length != 1).count() <= 1
}
