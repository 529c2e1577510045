use open_inference::{ContentType, Datatype, ModelMetadata, Task, TensorMetadata};

/// One of a few dozen signatures, by a byte of the input.
pub fn model(choice: u8) -> ModelMetadata {
    let choice = usize::from(choice);
    let kinds = Datatype::ALL.len();
    match choice % (3 * kinds + 6) {
        open if open < kinds => one(TensorMetadata::new("x", Datatype::ALL[open], &[-1, -1])),
        fixed if fixed < 2 * kinds => one(TensorMetadata::new("x", Datatype::ALL[fixed - kinds], &[2])),
        scalar if scalar < 3 * kinds => one(TensorMetadata::new("x", Datatype::ALL[scalar - 2 * kinds], &[])),
        other => several(other - 3 * kinds),
    }
}

fn several(choice: usize) -> ModelMetadata {
    let content = |content_type, mut tensor: TensorMetadata| {
        tensor.parameters.content_type = Some(content_type);
        tensor
    };
    let text = |name| TensorMetadata::new(name, Datatype::Bytes, &[-1]);
    match choice {
        0 => one(content(ContentType::Image, TensorMetadata::new("x", Datatype::Uint8, &[-1, 2, 2, 1]))),
        1 => one(content(ContentType::Base64, text("x"))),
        2 => one(content(ContentType::Datetime, TensorMetadata::new("x", Datatype::Int64, &[-1]))),
        3 => of(vec![
            text("a"),
            TensorMetadata::new("b", Datatype::Fp64, &[-1, 1]),
            content(ContentType::Str, text("c")),
        ]),
        4 => {
            let mut model = one(TensorMetadata::new("x", Datatype::Fp32, &[-1, 3]));
            model.outputs[0].parameters.task = Some(Task::Classification);
            model.outputs[0].parameters.labels = vec!["a".to_owned(), "b\"".to_owned()];
            model
        }
        _ => {
            let mut model = one(TensorMetadata::new("x", Datatype::Uint8, &[-1, -1, -1, -1]));
            model.inputs[0].parameters.allow_empty = true;
            model.outputs[0].parameters.task = Some(Task::Image);
            model
        }
    }
}

fn one(input: TensorMetadata) -> ModelMetadata {
    of(vec![input])
}

/// A model that gives what it takes.
fn of(inputs: Vec<TensorMetadata>) -> ModelMetadata {
    let output = |input: &TensorMetadata| TensorMetadata::new(&input.name, input.datatype, &input.shape);
    ModelMetadata {
        name: "m".to_owned(),
        version: "1".to_owned(),
        outputs: inputs.iter().map(output).collect(),
        inputs,
        max_batch_size: 0, platform: open_inference::Platform::default(), batching: None, not_cached: None
    }
}
