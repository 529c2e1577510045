//! Conversion of inference responses to messages.

use std::collections::BTreeMap;

use super::contents::from_tensor;
use crate::grpc::proto::inference::infer_parameter::ParameterChoice;
use crate::grpc::proto::inference::model_infer_response::InferOutputTensor;
use crate::grpc::proto::inference::{InferParameter, ModelInferResponse};
use crate::types::{Parameter, Parameters, WireOutput, WireResponse};

/// Converts a response to a message with typed contents where `typed`, otherwise with raw ones. Where a datatype has no
/// typed contents, all outputs are raw: the protocol forbids a mixture.
pub fn write(response: WireResponse, typed: bool) -> ModelInferResponse {
    let contents: Option<Vec<_>> =
        if typed { response.outputs.iter().map(|output| from_tensor(&output.tensor)).collect() } else { None };
    let raw_output_contents = match &contents {
        Some(_) => Vec::new(),
        None => response.outputs.iter().map(|output| output.tensor.data.clone()).collect(),
    };
    let contents = contents.into_iter().flatten().map(Some).chain(std::iter::repeat(None));
    let outputs = response
        .outputs
        .into_iter()
        .zip(contents)
        .map(|(WireOutput { tensor, parameters, .. }, contents)| InferOutputTensor {
            name: tensor.name,
            datatype: tensor.datatype.name().to_owned(),
            shape: tensor.shape.iter().map(|&length| length.cast_signed() as i64).collect(),
            parameters: write_parameters(parameters),
            contents,
        })
        .collect();
    ModelInferResponse {
        model_name: response.model_name,
        model_version: response.model_version,
        id: response.id,
        parameters: write_parameters(response.parameters),
        outputs,
        raw_output_contents,
    }
}

/// Converts parameters to messages.
pub fn write_parameters(parameters: Parameters) -> BTreeMap<String, InferParameter> {
    let write = |parameter| match parameter {
        Parameter::Bool(truth) => ParameterChoice::BoolParam(truth),
        Parameter::Int(number) => ParameterChoice::Int64Param(number),
        Parameter::Uint(number) => ParameterChoice::Uint64Param(number),
        Parameter::Double(number) => ParameterChoice::DoubleParam(number),
        Parameter::String(text) => ParameterChoice::StringParam(text),
    };
    parameters
        .into_iter()
        .map(|(name, parameter)| (name, InferParameter { parameter_choice: Some(write(parameter)) }))
        .collect()
}
