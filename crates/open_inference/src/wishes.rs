use std::collections::HashSet;
use std::time::Duration;

use service::request_id::new_request_id;

use crate::check::{names, shown};
use crate::{
    ContentType, Datatype, Error, ModelMetadata, Parameter, Parameters, RequestedOutput, TensorMetadata, binary,
    content,
};

/// The most bytes of an `id`: it comes back in every answer.
pub(crate) const LONGEST_ID: usize = 1024;

/// What a caller wishes to see of an answer, held against the model beforehand: a wish that cannot be granted is found
/// before the model is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Wishes {
    /// The caller's name for the request, or one that was made up.
    pub id: String,
    /// `timeout` of the request, in microseconds there: give up after so long.
    pub timeout: Option<Duration>,
    pub(crate) outputs: Vec<Wish>,
}

/// One output, and how it is to be written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wish {
    pub name: String,
    pub form: Form,
    pub binary: bool,
}

/// How an output is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As the model made it; with what MLServer's clients are told of it.
    Plain(Option<ContentType>),
    /// The best classes of each row.
    Classes(usize),
    /// One PNG for each row.
    Picture,
    /// Each element as base64.
    Base64,
    /// Each element as ISO 8601.
    Datetime,
}

impl Wishes {
    pub(crate) fn read(
        id: Option<String>,
        parameters: &Parameters,
        outputs: &[RequestedOutput],
        model: &ModelMetadata,
    ) -> Result<Self, Error> {
        let binary = flag(parameters, binary::ALL_WANTED)?.unwrap_or(false);
        // As in MLServer: who sends tensors as they are gets tensors as they are.
        let as_is = content::read_word(parameters)? == Some(ContentType::Np);
        let unsaid = |output: &TensorMetadata| if as_is { Form::Plain(None) } else { Form::of(output) };
        let outputs = if outputs.is_empty() {
            let all = |output: &TensorMetadata| Wish { name: output.name.clone(), form: unsaid(output), binary };
            model.outputs.iter().map(all).collect()
        } else {
            let mut seen = HashSet::new();
            for output in outputs {
                if !seen.insert(&output.name) {
                    return Err(Error::malformed(format!("output {} is asked for twice", shown(&output.name))));
                }
            }
            outputs.iter().map(|output| Wish::read(output, binary, unsaid, model)).collect::<Result<_, _>>()?
        };
        if id.as_ref().is_some_and(|id| id.len() > LONGEST_ID) {
            return Err(Error::malformed(format!("the id has more than {LONGEST_ID} bytes")));
        }
        let id = id.filter(|id| !id.is_empty()).unwrap_or_else(|| new_request_id().to_string());
        Ok(Self { id, timeout: timeout(parameters)?, outputs })
    }

    /// Asks for one output of all, as a picture.
    pub(crate) fn only_picture(&mut self, output: &TensorMetadata) -> Result<(), Error> {
        Form::Picture.must_suit(output)?;
        self.outputs = vec![Wish { name: output.name.clone(), form: Form::Picture, binary: true }];
        Ok(())
    }

    /// Asks for everything in the JSON, and nothing behind it.
    pub(crate) fn all_in_json(&mut self) {
        self.outputs.iter_mut().for_each(|wish| wish.binary = false);
    }

    /// Whether the caller wants this output.
    pub(crate) fn has(&self, output: &TensorMetadata) -> bool {
        self.outputs.iter().any(|wish| wish.name == output.name)
    }
}

impl Wish {
    fn read(
        output: &RequestedOutput,
        all_binary: bool,
        unsaid: impl Fn(&TensorMetadata) -> Form,
        model: &ModelMetadata,
    ) -> Result<Self, Error> {
        let RequestedOutput { name, parameters } = output;
        let unknown = || {
            let there = names(&model.outputs);
            Error::unfit(format!("model {:?} has no output {}; it gives {there}", model.name, shown(name)))
        };
        let metadata = model.outputs.iter().find(|output| output.name == *name).ok_or_else(unknown)?;
        // The caller would look for it there, and find something else.
        if parameters.contains_key("shared_memory_region") {
            return Err(Error::malformed(format!("output {name:?} is wanted in shared memory, which is not served")));
        }
        let form = match (classes(name, parameters)?, content::read_word(parameters)?) {
            (Some(_), Some(_)) => {
                return Err(Error::malformed(format!("output {name:?} is asked for as classes and in a content type")));
            }
            (Some(count), None) => Form::Classes(count),
            (None, Some(content_type)) => Form::asked(content_type),
            (None, None) => unsaid(metadata),
        };
        form.must_suit(metadata)?;
        let binary = flag(parameters, binary::WANTED)?.unwrap_or(all_binary);
        Ok(Self { name: name.clone(), form, binary })
    }
}

impl Form {
    /// What the settings say, where that goes with the datatype.
    pub(crate) fn of(output: &TensorMetadata) -> Self {
        let form = output.parameters.content_type.map_or(Self::Plain(None), Self::asked);
        if form.must_suit(output).is_ok() { form } else { Self::Plain(None) }
    }

    fn asked(content_type: ContentType) -> Self {
        match content_type {
            ContentType::Image => Self::Picture,
            ContentType::Base64 => Self::Base64,
            ContentType::Datetime => Self::Datetime,
            plain => Self::Plain(Some(plain)),
        }
    }

    fn must_suit(self, output: &TensorMetadata) -> Result<(), Error> {
        let datatype = output.datatype;
        let (suits, words) = match self {
            Self::Plain(Some(ContentType::Str)) => (datatype == Datatype::Bytes, "text"),
            Self::Plain(_) => return Ok(()),
            Self::Base64 => (datatype == Datatype::Bytes, "base64"),
            Self::Classes(_) => (datatype != Datatype::Bytes, "classes"),
            Self::Picture => (datatype != Datatype::Bytes, "a picture"),
            Self::Datetime => (matches!(datatype, Datatype::Bytes | Datatype::Int64 | Datatype::Fp64), "dates"),
        };
        if suits {
            Ok(())
        } else {
            Err(Error::unfit(format!("output {:?} is {datatype}; it cannot be asked for as {words}", output.name)))
        }
    }
}

fn classes(name: &str, parameters: &Parameters) -> Result<Option<usize>, Error> {
    let Some(count) = parameters.get("classification") else { return Ok(None) };
    // Triton's clients send 0 for "no classes, please".
    if *count == Parameter::Int(0) {
        return Ok(None);
    }
    let count = count.as_u64().and_then(|count| usize::try_from(count).ok());
    count
        .map(Some)
        .ok_or_else(|| Error::malformed(format!("classification of output {name:?} is not a number of classes")))
}

fn flag(parameters: &Parameters, name: &str) -> Result<Option<bool>, Error> {
    let Some(value) = parameters.get(name) else { return Ok(None) };
    value.as_bool().map(Some).ok_or_else(|| Error::malformed(format!("{name} is neither true nor false")))
}

fn timeout(parameters: &Parameters) -> Result<Option<Duration>, Error> {
    let Some(value) = parameters.get("timeout") else { return Ok(None) };
    // Triton's clients send it as a number, its REST examples also as a text.
    let micros = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let micros = micros.ok_or_else(|| Error::malformed("timeout is not a number of microseconds"))?;
    Ok((micros > 0).then(|| Duration::from_micros(micros)))
}
