use serde_json::Value;

use super::proto::inference as pb;
use super::response::write_parameters;
use crate::{
    BatchStatistics, EXTENSIONS, InferenceStatistics, ModelMetadata, ModelStatistics, Parameter, Parameters,
    SERVER_NAME, SERVER_VERSION, StatisticDuration, TensorMetadata, model_config,
};

/// Which server this is, and what it can do beyond the protocol.
pub fn server() -> pb::ServerMetadataResponse {
    let owned = |text: &str| text.to_owned();
    pb::ServerMetadataResponse {
        name: owned(SERVER_NAME),
        version: owned(SERVER_VERSION),
        extensions: EXTENSIONS.map(owned).into(),
    }
}

/// A model's signature.
pub fn metadata(model: &ModelMetadata, versions: Vec<String>) -> pb::ModelMetadataResponse {
    let tensors = |tensors: &[TensorMetadata]| tensors.iter().map(tensor).collect();
    pb::ModelMetadataResponse {
        platform: model.platform.name().to_owned(),
        name: model.name.clone(),
        versions,
        inputs: tensors(&model.inputs),
        outputs: tensors(&model.outputs),
        parameters: write_parameters(parameters(model.parameters())),
    }
}

fn tensor(tensor: &TensorMetadata) -> pb::model_metadata_response::TensorMetadata {
    pb::model_metadata_response::TensorMetadata {
        name: tensor.name.clone(),
        datatype: tensor.datatype.name().to_owned(),
        shape: tensor.shape.clone(),
        parameters: write_parameters(parameters(serde_json::to_value(&tensor.parameters).unwrap_or_default())),
    }
}

/// Those of JSON that gRPC can say, and lists and objects as their JSON.
fn parameters(json: Value) -> Parameters {
    let Value::Object(fields) = json else { return Parameters::new() };
    let parameter = |value| match value {
        Value::Bool(truth) => Parameter::Bool(truth),
        Value::String(text) => Parameter::String(text),
        Value::Number(number) if number.is_i64() => Parameter::Int(number.as_i64().unwrap_or_default()),
        other => Parameter::String(other.to_string()),
    };
    fields.into_iter().map(|(name, value)| (name, parameter(value))).collect()
}

/// A model's configuration: the fields of REST's that gRPC has.
pub fn config(model: &ModelMetadata) -> pb::ModelConfig {
    use pb::model_config::SchedulingChoice::DynamicBatching;
    use pb::model_version_policy::{All, PolicyChoice};

    let json = model_config(model);
    let dims = |tensor: &Value| tensor["dims"].as_array().into_iter().flatten().filter_map(Value::as_i64).collect();
    let each = |list: &Value| list.as_array().cloned().unwrap_or_default();
    pb::ModelConfig {
        name: text(&json["name"]),
        platform: text(&json["platform"]),
        backend: text(&json["backend"]),
        version_policy: Some(pb::ModelVersionPolicy { policy_choice: Some(PolicyChoice::All(All {})) }),
        max_batch_size: i32::try_from(model.max_batch_size).unwrap_or(i32::MAX),
        input: each(&json["input"])
            .iter()
            .map(|input| pb::ModelInput { name: text(&input["name"]), data_type: data_type(input), dims: dims(input) })
            .collect(),
        output: each(&json["output"])
            .iter()
            .map(|output| pb::ModelOutput {
                name: text(&output["name"]),
                data_type: data_type(output),
                dims: dims(output),
            })
            .collect(),
        default_model_filename: text(&json["default_model_filename"]),
        scheduling_choice: json.get("dynamic_batching").map(|_| DynamicBatching(pb::ModelDynamicBatching::default())),
    }
}

fn data_type(tensor: &Value) -> i32 {
    tensor["data_type"].as_str().and_then(pb::DataType::from_str_name).unwrap_or_default().into()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Counts and times of a model version.
pub fn statistics(statistics: ModelStatistics) -> pb::ModelStatistics {
    pb::ModelStatistics {
        name: statistics.name,
        version: statistics.version,
        last_inference: statistics.last_inference,
        inference_count: statistics.inference_count,
        execution_count: statistics.execution_count,
        inference_stats: Some(stages(&statistics.inference_stats)),
        batch_stats: statistics.batch_stats.iter().map(batch).collect(),
    }
}

fn stages(stages: &InferenceStatistics) -> pb::InferStatistics {
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

fn batch(batch: &BatchStatistics) -> pb::InferBatchStatistics {
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
    use crate::{Batching, NotCached, Platform, RowDependence};

    #[test]
    fn batching_and_cache_are_json_in_the_parameters() {
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
        let parameters = metadata(&model, Vec::new()).parameters;
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
