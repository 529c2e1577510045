//! Model configuration, after Triton's model configuration extension.

use serde_json::{Value, json};

use crate::types::{Datatype, ModelMetadata, TensorMetadata};

/// Minimum height and width of an input that is classified as an image, in pixels: that of scikit-learn's digits.
const MIN_IMAGE_SIDE: i64 = 8;

/// Model configuration in the format of Triton's extension. Its clients expect the batch axis in `max_batch_size`;
/// where that is not 0, `dims` omits the first axis. `cached` is whether the server caches results: Triton's load
/// generator counts cache hits only where the configuration enables the cache.
pub fn model_config(model: &ModelMetadata, cached: bool) -> Value {
    let batched = model.max_batch_size > 0;
    let input = |tensor: &TensorMetadata| {
        json!({
            "name": tensor.name,
            "data_type": type_name(tensor.datatype),
            "format": image_format(tensor, batched),
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
        "response_cache": {"enable": cached},
    });
    if batched {
        config["dynamic_batching"] = json!({"max_queue_delay_microseconds": 0});
    }
    config
}

fn dims(tensor: &TensorMetadata, batched: bool) -> &[i64] {
    if batched { tensor.shape.get(1..).unwrap_or_default() } else { &tensor.shape }
}

/// Memory layout of an image input, which Triton's image client requires. `FORMAT_NONE` where the tensor is not an image,
/// or where the layout is ambiguous.
///
/// An image has three axes besides the batch axis, which may be absent where the model is not `batched`. One of the
/// outer two is the channel axis, of length one, three or four. Height and width are either both dynamic or both at
/// least [`MIN_IMAGE_SIDE`].
fn image_format(tensor: &TensorMetadata, batched: bool) -> &'static str {
    let (first, middle, last) = match tensor.shape[..] {
        [_, first, middle, last] => (first, middle, last),
        [first, middle, last] if !batched => (first, middle, last),
        _ => return "FORMAT_NONE",
    };
    let is_number = !matches!(tensor.datatype, Datatype::Bytes | Datatype::Bool);
    let is_channel_count = |length| matches!(length, 1 | 3 | 4);
    let is_plane = |height, width| (height < 0 && width < 0) || (height >= MIN_IMAGE_SIDE && width >= MIN_IMAGE_SIDE);
    match (
        is_number && is_channel_count(last) && is_plane(first, middle),
        is_number && is_channel_count(first) && is_plane(middle, last),
    ) {
        (true, false) => "FORMAT_NHWC",
        (false, true) => "FORMAT_NCHW",
        _ => "FORMAT_NONE",
    }
}

/// Triton's name of a datatype, which differs from the protocol's.
fn type_name(datatype: Datatype) -> String {
    match datatype {
        Datatype::Bytes => "TYPE_STRING".to_owned(),
        datatype => format!("TYPE_{datatype}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(input: TensorMetadata, max_batch_size: u32) -> ModelMetadata {
        ModelMetadata {
            name: "m".to_owned(),
            version: "1".to_owned(),
            inputs: vec![input],
            outputs: vec![TensorMetadata::new("y", Datatype::Fp32, &[-1])],
            max_batch_size,
            platform: crate::Platform::default(),
            batching: None,
            not_cached: None,
        }
    }

    #[test]
    fn a_signature_is_converted_to_tritons_format() {
        let mut model = model(TensorMetadata::new("x", Datatype::Bytes, &[-1, 2]), 8);
        let config = model_config(&model, true);
        assert_eq!(config["input"][0]["data_type"], "TYPE_STRING");
        assert_eq!(config["input"][0]["dims"], json!([2]));
        assert_eq!(config["output"][0]["dims"], json!([]));
        assert_eq!(config["input"][0]["optional"], false);
        assert_eq!(config["max_batch_size"], 8);
        assert_eq!(config["response_cache"]["enable"], true);
        model.max_batch_size = 0;
        model.inputs[0].parameters.optional = true;
        let config = model_config(&model, false);
        assert_eq!(config["response_cache"]["enable"], false);
        assert_eq!(config["input"][0]["optional"], true);
        assert_eq!(config["input"][0]["dims"], json!([-1, 2]));
        assert_eq!(config["output"][0]["data_type"], "TYPE_FP32");
        assert!(config.get("dynamic_batching").is_none());
    }

    #[test]
    fn image_layouts_are_recognised() {
        use Datatype::{Bytes, Fp32, Uint8};
        for (datatype, shape, max_batch_size, format) in [
            (Fp32, &[-1, 28, 28, 1][..], 8, "FORMAT_NHWC"),
            (Uint8, &[-1, 224, 320, 3], 8, "FORMAT_NHWC"),
            (Fp32, &[-1, -1, -1, 4], 8, "FORMAT_NHWC"),
            (Fp32, &[-1, 3, 224, 224], 8, "FORMAT_NCHW"),
            (Fp32, &[-1, 1, 8, 8], 8, "FORMAT_NCHW"),
            (Fp32, &[-1, 3, -1, -1], 8, "FORMAT_NCHW"),
            // Without a batch axis, with a fixed one, and with one that is not declared.
            (Fp32, &[224, 224, 3], 0, "FORMAT_NHWC"),
            (Fp32, &[1, 3, 224, 224], 0, "FORMAT_NCHW"),
            (Fp32, &[-1, 224, 224, 3], 0, "FORMAT_NHWC"),
            // Wrong channel count, ambiguous, wrong sides, not numeric.
            (Fp32, &[-1, 2, 224, 224], 8, "FORMAT_NONE"),
            (Fp32, &[-1, 3, 224, 3], 8, "FORMAT_NONE"),
            (Fp32, &[-1, 4, -1, 64], 8, "FORMAT_NONE"),
            (Fp32, &[-1, 16, 4, 3], 8, "FORMAT_NONE"),
            (Bytes, &[-1, 28, 28, 1], 8, "FORMAT_NONE"),
            (Fp32, &[-1, 28, 28], 8, "FORMAT_NONE"),
            (Fp32, &[-1, 3], 8, "FORMAT_NONE"),
            (Fp32, &[], 0, "FORMAT_NONE"),
        ] {
            let model = model(TensorMetadata::new("x", datatype, shape), max_batch_size);
            assert_eq!(model_config(&model, false)["input"][0]["format"], format, "{datatype} {shape:?}");
        }
    }
}
