use std::collections::BTreeMap;

use super::contents::from_tensor;
use super::proto::inference::infer_parameter::ParameterChoice;
use super::proto::inference::model_infer_response::InferOutputTensor;
use super::proto::inference::{InferParameter, ModelInferResponse};
use crate::{Parameter, Parameters, WireOutput, WireResponse};

/// An answer as a message: raw, or typed for who asked so. Where one output's datatype has no typed contents, all are raw:
/// the protocol knows no mixture.
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

/// Parameters as messages.
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
