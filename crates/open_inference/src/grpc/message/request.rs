//! Conversion of inference requests from messages.

use std::collections::BTreeMap;

use super::contents::{non_empty_fields, to_raw};
use crate::error::Error;
use crate::grpc::proto::inference::infer_parameter::ParameterChoice;
use crate::grpc::proto::inference::model_infer_request::InferInputTensor;
use crate::grpc::proto::inference::{InferParameter, ModelInferRequest};
use crate::truncate::quoted;
use crate::types::{Datatype, Parameter, Parameters, RequestedOutput, WireData, WireInput, WireRequest};

/// A parsed inference request, without the name of its model.
pub struct DecodedRequest {
    pub wire: WireRequest,
    /// Whether its elements are in typed contents. The response uses the same form.
    pub typed: bool,
}

/// Parses a request. Raw contents are not copied; typed contents are converted to raw ones.
pub fn parse(message: ModelInferRequest) -> Result<DecodedRequest, Error> {
    let ModelInferRequest { id, parameters, inputs, outputs, raw_input_contents, .. } = message;
    let typed = raw_input_contents.is_empty() && !inputs.is_empty();
    if !typed && raw_input_contents.len() != inputs.len() {
        let (raw, inputs) = (raw_input_contents.len(), inputs.len());
        let message =
            format!("raw_input_contents has {raw} entries for {inputs} inputs; each input needs one, or none has one");
        return Err(Error::malformed(message));
    }
    let mut raw = raw_input_contents.into_iter();
    let inputs = inputs
        .into_iter()
        .map(|input| {
            let data = match raw.next() {
                Some(data) => reject_typed_contents(&input).map(|()| WireData::Raw(data)),
                None => typed_contents(&input),
            };
            let InferInputTensor { name, datatype, shape, parameters, .. } = input;
            Ok(WireInput { name, datatype, shape, parameters: parse_parameters(parameters), data: data? })
        })
        .collect::<Result<_, Error>>()?;
    let outputs = outputs
        .into_iter()
        .map(|output| RequestedOutput { name: output.name, parameters: parse_parameters(output.parameters) })
        .collect();
    let id = Some(id).filter(|id| !id.is_empty());
    let wire = WireRequest { id, parameters: parse_parameters(parameters), inputs, outputs };
    Ok(DecodedRequest { wire, typed })
}

/// An empty version selects the default version.
pub fn optional_version(version: String) -> Option<String> {
    Some(version).filter(|version| !version.is_empty())
}

fn reject_typed_contents(input: &InferInputTensor) -> Result<(), Error> {
    match input.contents.as_ref().and_then(|contents| non_empty_fields(contents).first().copied()) {
        None => Ok(()),
        Some(field) => {
            let message = format!("input {} has {field}, but raw_input_contents is used", quoted(&input.name));
            Err(Error::malformed(message))
        }
    }
}

fn typed_contents(input: &InferInputTensor) -> Result<WireData, Error> {
    let invalid = |reason: &str| Error::malformed(format!("input {}: {reason}", quoted(&input.name)));
    // An unknown datatype is reported later, as for every transport.
    let datatype: Option<Datatype> = input.datatype.parse().ok();
    let data = match (&input.contents, datatype) {
        (Some(contents), Some(datatype)) => to_raw(datatype, contents).map_err(|reason| invalid(&reason))?,
        (None, _) if input.parameters.contains_key("shared_memory_region") => {
            return Err(invalid("it is in shared memory, which is not supported"));
        }
        (None, _) if !input.shape.contains(&0) => {
            return Err(invalid("it has neither contents nor an entry in raw_input_contents"));
        }
        _ => bytes::Bytes::new(),
    };
    Ok(WireData::Raw(data))
}

fn parse_parameters(parameters: BTreeMap<String, InferParameter>) -> Parameters {
    let parse = |parameter: InferParameter| {
        Some(match parameter.parameter_choice? {
            ParameterChoice::BoolParam(truth) => Parameter::Bool(truth),
            ParameterChoice::Int64Param(number) => Parameter::Int(number),
            ParameterChoice::Uint64Param(number) => {
                i64::try_from(number).map_or(Parameter::Uint(number), Parameter::Int)
            }
            ParameterChoice::DoubleParam(number) => Parameter::Double(number),
            ParameterChoice::StringParam(text) => Parameter::String(text),
        })
    };
    parameters.into_iter().filter_map(|(name, parameter)| Some((name, parse(parameter)?))).collect()
}
