use serde_json::{Value, json};

use crate::{Datatype, ModelMetadata, TensorMetadata};

/// A model's signature as Triton's model configuration extension gives it. Its clients leave the batch axis to
/// `max_batch_size`, so where that is not 0 the first axis is missing in `dims`.
pub fn model_config(model: &ModelMetadata) -> Value {
    let batched = model.max_batch_size > 0;
    let input = |tensor: &TensorMetadata| {
        json!({
            "name": tensor.name,
            "data_type": type_name(tensor.datatype),
            "format": "FORMAT_NONE",
            "dims": dims(tensor, batched),
            "is_shape_tensor": false,
            "allow_ragged_batch": false,
            "optional": tensor.parameters.optional,
        })
    };
    let output = |tensor: &TensorMetadata| {
        json!({
            "name": tensor.name,
            "data_type": type_name(tensor.datatype),
            "dims": dims(tensor, batched),
            "label_filename": "",
            "is_shape_tensor": false,
        })
    };
    let mut config = json!({
        "name": model.name,
        "platform": model.platform.name(),
        "backend": "onnxruntime",
        "version_policy": {"all": {}},
        "max_batch_size": model.max_batch_size,
        "input": model.inputs.iter().map(input).collect::<Vec<_>>(),
        "output": model.outputs.iter().map(output).collect::<Vec<_>>(),
        "batch_input": [],
        "batch_output": [],
        "instance_group": [],
        "default_model_filename": "model.onnx",
        "cc_model_filenames": {},
        "metric_tags": {},
        "parameters": {},
        "model_warmup": [],
    });
    if batched {
        config["dynamic_batching"] = json!({"max_queue_delay_microseconds": 0});
    }
    config
}

fn dims(tensor: &TensorMetadata, batched: bool) -> &[i64] {
    if batched { tensor.shape.get(1..).unwrap_or_default() } else { &tensor.shape }
}

/// Triton's name of a datatype here, which is not the protocol's.
fn type_name(datatype: Datatype) -> String {
    match datatype {
        Datatype::Bytes => "TYPE_STRING".to_owned(),
        datatype => format!("TYPE_{datatype}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_written_in_tritons_words() {
        let mut model = ModelMetadata {
            name: "m".to_owned(),
            version: "1".to_owned(),
            inputs: vec![TensorMetadata::new("x", Datatype::Bytes, &[-1, 2])],
            outputs: vec![TensorMetadata::new("y", Datatype::Fp32, &[-1])],
            max_batch_size: 8,
            platform: crate::Platform::default(),
            batching: None,
            not_cached: None,
        };
        let config = model_config(&model);
        assert_eq!(config["input"][0]["data_type"], "TYPE_STRING");
        assert_eq!(config["input"][0]["dims"], json!([2]));
        assert_eq!(config["output"][0]["dims"], json!([]));
        assert_eq!(config["input"][0]["optional"], false);
        assert_eq!(config["max_batch_size"], 8);
        model.inputs[0].parameters.optional = true;
        assert_eq!(model_config(&model)["input"][0]["optional"], true);
        model.max_batch_size = 0;
        let config = model_config(&model);
        assert_eq!(config["input"][0]["dims"], json!([-1, 2]));
        assert_eq!(config["output"][0]["data_type"], "TYPE_FP32");
        assert!(config.get("dynamic_batching").is_none());
    }
}
