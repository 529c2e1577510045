use super::contents::{filled, to_raw};
use super::proto::inference::infer_parameter::ParameterChoice;
use super::proto::inference::model_infer_request::InferInputTensor;
use super::proto::inference::{InferParameter, ModelInferRequest};
use std::collections::BTreeMap;

use crate::check::shown;
use crate::{Datatype, Error, Parameter, Parameters, RequestedOutput, WireData, WireInput, WireRequest};

/// A question, read out of its message; whose model it is for stands beside it.
pub struct Question {
    pub wire: WireRequest,
    /// Its elements came in typed contents, and so go those of the answer.
    pub typed: bool,
}

/// Reads a message: raw contents as they are, typed ones made raw.
pub fn read(message: ModelInferRequest) -> Result<Question, Error> {
    let ModelInferRequest { id, parameters, inputs, outputs, raw_input_contents, .. } = message;
    let typed = raw_input_contents.is_empty() && !inputs.is_empty();
    if !typed && raw_input_contents.len() != inputs.len() {
        let (raw, inputs) = (raw_input_contents.len(), inputs.len());
        let words =
            format!("raw_input_contents has {raw} entries for {inputs} inputs; each input needs one, or none has one");
        return Err(Error::malformed(words));
    }
    let mut raw = raw_input_contents.into_iter();
    let inputs = inputs
        .into_iter()
        .map(|input| {
            let data = match raw.next() {
                Some(data) => only_raw(&input).map(|()| WireData::Raw(data)),
                None => typed_contents(&input),
            };
            let InferInputTensor { name, datatype, shape, parameters, .. } = input;
            Ok(WireInput { name, datatype, shape, parameters: read_parameters(parameters), data: data? })
        })
        .collect::<Result<_, Error>>()?;
    let outputs = outputs
        .into_iter()
        .map(|output| RequestedOutput { name: output.name, parameters: read_parameters(output.parameters) })
        .collect();
    let id = Some(id).filter(|id| !id.is_empty());
    let wire = WireRequest { id, parameters: read_parameters(parameters), inputs, outputs };
    Ok(Question { wire, typed })
}

/// An empty version asks for the default one.
pub fn version(version: String) -> Option<String> {
    Some(version).filter(|version| !version.is_empty())
}

fn only_raw(input: &InferInputTensor) -> Result<(), Error> {
    match input.contents.as_ref().and_then(|contents| filled(contents).first().copied()) {
        None => Ok(()),
        Some(field) => {
            let words = format!("input {} has {field}, but raw_input_contents is used", shown(&input.name));
            Err(Error::malformed(words))
        }
    }
}

fn typed_contents(input: &InferInputTensor) -> Result<WireData, Error> {
    let wrong = |reason: &str| Error::malformed(format!("input {}: {reason}", shown(&input.name)));
    // A word that is no datatype is found later, as on every route.
    let datatype: Option<Datatype> = input.datatype.parse().ok();
    let data = match (&input.contents, datatype) {
        (Some(contents), Some(datatype)) => to_raw(datatype, contents).map_err(|reason| wrong(&reason))?,
        (None, _) if input.parameters.contains_key("shared_memory_region") => {
            return Err(wrong("it is in shared memory, which is not served"));
        }
        (None, _) if !input.shape.contains(&0) => {
            return Err(wrong("it has neither contents nor an entry in raw_input_contents"));
        }
        _ => bytes::Bytes::new(),
    };
    Ok(WireData::Raw(data))
}

fn read_parameters(parameters: BTreeMap<String, InferParameter>) -> Parameters {
    let read = |parameter: InferParameter| {
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
    parameters.into_iter().filter_map(|(name, parameter)| Some((name, read(parameter)?))).collect()
}
