//! Metadata, configuration and statistics as messages.

use serde_json::Value;

use super::response::write_parameters;
use crate::grpc::proto::inference as pb;
use crate::server::{EXTENSIONS, SERVER_NAME, SERVER_VERSION};
use crate::statistics::{BatchStatistics, InferenceStatistics, ModelStatistics, StatisticDuration};
use crate::triton_config;
use crate::types::{ModelMetadata, Parameter, Parameters, TensorMetadata};

/// Name, version and extensions of the server.
pub fn server_metadata() -> pb::ServerMetadataResponse {
    let owned = |text: &str| text.to_owned();
    pb::ServerMetadataResponse {
        name: owned(SERVER_NAME),
        version: owned(SERVER_VERSION),
        extensions: EXTENSIONS.map(owned).into(),
    }
}

/// Metadata of a model.
pub fn model_metadata(model: &ModelMetadata, versions: Vec<String>) -> pb::ModelMetadataResponse {
    let tensors = |tensors: &[TensorMetadata]| tensors.iter().map(tensor_metadata).collect();
    pb::ModelMetadataResponse {
        platform: model.platform.name().to_owned(),
        name: model.name.clone(),
        versions,
        inputs: tensors(&model.inputs),
        outputs: tensors(&model.outputs),
        parameters: write_parameters(json_parameters(model.parameters())),
    }
}

fn tensor_metadata(tensor: &TensorMetadata) -> pb::model_metadata_response::TensorMetadata {
    pb::model_metadata_response::TensorMetadata {
        name: tensor.name.clone(),
        datatype: tensor.datatype.name().to_owned(),
        shape: tensor.shape.clone(),
        parameters: write_parameters(json_parameters(serde_json::to_value(&tensor.parameters).unwrap_or_default())),
    }
}

/// Converts JSON parameters. Lists and objects become strings of JSON, because gRPC has no type for them.
fn json_parameters(json: Value) -> Parameters {
    let Value::Object(fields) = json else { return Parameters::new() };
    let parameter = |value| match value {
        Value::Bool(truth) => Parameter::Bool(truth),
        Value::String(text) => Parameter::String(text),
        Value::Number(number) if number.is_i64() => Parameter::Int(number.as_i64().unwrap_or_default()),
        other => Parameter::String(other.to_string()),
    };
    fields.into_iter().map(|(name, value)| (name, parameter(value))).collect()
}

/// Configuration of a model: the fields of the REST response that the message has.
pub fn model_config(model: &ModelMetadata, cached: bool) -> pb::ModelConfig {
    use pb::model_config::SchedulingChoice::DynamicBatching;
    use pb::model_version_policy::{All, PolicyChoice};

    let json = triton_config::model_config(model, cached);
    let dims = |tensor: &Value| tensor["dims"].as_array().into_iter().flatten().filter_map(Value::as_i64).collect();
    let items = |list: &Value| list.as_array().cloned().unwrap_or_default();
    pb::ModelConfig {
        name: text(&json["name"]),
        platform: text(&json["platform"]),
        backend: text(&json["backend"]),
        version_policy: Some(pb::ModelVersionPolicy { policy_choice: Some(PolicyChoice::All(All {})) }),
        max_batch_size: i32::try_from(model.max_batch_size).unwrap_or(i32::MAX),
        input: items(&json["input"])
            .iter()
            .map(|input| pb::ModelInput {
                name: text(&input["name"]),
                data_type: data_type(input),
                format: format(input),
                dims: dims(input),
                optional: input["optional"].as_bool().unwrap_or_default(),
            })
            .collect(),
        output: items(&json["output"])
            .iter()
            .map(|output| pb::ModelOutput {
                name: text(&output["name"]),
                data_type: data_type(output),
                dims: dims(output),
            })
            .collect(),
        default_model_filename: text(&json["default_model_filename"]),
        scheduling_choice: json.get("dynamic_batching").map(|_| DynamicBatching(pb::ModelDynamicBatching::default())),
        response_cache: Some(pb::ModelResponseCache { enable: cached }),
    }
}

fn data_type(tensor: &Value) -> i32 {
    tensor["data_type"].as_str().and_then(pb::DataType::from_str_name).unwrap_or_default().into()
}

fn format(input: &Value) -> i32 {
    input["format"].as_str().and_then(pb::model_input::Format::from_str_name).unwrap_or_default().into()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Statistics of a model version.
pub fn model_statistics(statistics: ModelStatistics) -> pb::ModelStatistics {
    pb::ModelStatistics {
        name: statistics.name,
        version: statistics.version,
        last_inference: statistics.last_inference,
        inference_count: statistics.inference_count,
        execution_count: statistics.execution_count,
        inference_stats: Some(infer_statistics(&statistics.inference_stats)),
        batch_stats: statistics.batch_stats.iter().map(batch_statistics).collect(),
    }
}

fn infer_statistics(stages: &InferenceStatistics) -> pb::InferStatistics {
    pb::InferStatistics {
        success: Some(duration(stages.success)),
        fail: Some(duration(stages.fail)),
        queue: Some(duration(stages.queue)),
        compute_input: Some(duration(stages.compute_input)),
        compute_infer: Some(duration(stages.compute_infer)),
        compute_output: Some(duration(stages.compute_output)),
        cache_hit: Some(duration(stages.cache_hit)),
        cache_miss: Some(duration(stages.cache_miss)),
    }
}

fn batch_statistics(batch: &BatchStatistics) -> pb::InferBatchStatistics {
    pb::InferBatchStatistics {
        batch_size: batch.batch_size,
        compute_input: Some(duration(batch.compute_input)),
        compute_infer: Some(duration(batch.compute_infer)),
        compute_output: Some(duration(batch.compute_output)),
    }
}

fn duration(duration: StatisticDuration) -> pb::StatisticDuration {
    pb::StatisticDuration { count: duration.count, ns: duration.ns }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::proto::inference::infer_parameter::ParameterChoice;
    use crate::types::{Batching, NotCached, Platform, RowDependence};

    #[test]
    fn batching_and_cache_are_json_parameters() {
        let batching = Batching { enabled: false, rows: RowDependence::Dependent, reason: "ReduceMax".to_owned() };
        let model = ModelMetadata {
            name: "m".to_owned(),
            version: "2".to_owned(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            max_batch_size: 8,
            platform: Platform::default(),
            batching: Some(batching.clone()),
            not_cached: Some(NotCached::Random),
        };
        let parameters = model_metadata(&model, Vec::new()).parameters;
        let choice = |name: &str| parameters[name].parameter_choice.clone();
        assert_eq!(choice("version"), Some(ParameterChoice::StringParam("2".to_owned())));
        assert_eq!(choice("max_batch_size"), Some(ParameterChoice::Int64Param(8)));
        let json = |name: &str| match choice(name) {
            Some(ParameterChoice::StringParam(json)) => serde_json::from_str::<Value>(&json).unwrap(),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(serde_json::from_value::<Batching>(json("batching")).unwrap(), batching);
        assert_eq!(json("cache"), serde_json::json!({"enabled": false, "reason": "random"}));
    }
}
