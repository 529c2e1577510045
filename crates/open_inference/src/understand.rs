use http::StatusCode;
use service::memory_budget::Reservation;

use crate::check::{find, shown, validate_inputs};
use crate::content::{self, Decoding};
use crate::json::elements::{self, ElementsError};
use crate::tensor::checked_shape;
use crate::{
    ContentType, Datatype, Error, ModelMetadata, OutputOptions, Parameters, Tensor, TensorError, WireData, WireInput,
    WireRequest, byte_length, columns,
};

/// What names, shapes and parameters may take of a body.
const MARGIN: usize = 64 << 10;

/// Makes of a request what the model can be asked with, and what the caller wishes to see of its answer.
///
/// Shapes, datatypes, elements and content types are read and held against the model's signature. All tensors together take
/// at most what a binary body of `max_body_bytes` holds, which is seen before memory is taken: a few bytes of JSON can say
/// many of a tensor, and the request may have to travel on as such a body. What is allocated for them is reserved in `memory`
/// before, and stays reserved there.
pub fn decode_request(
    wire: WireRequest,
    model: &ModelMetadata,
    max_body_bytes: usize,
    memory: &mut Reservation,
) -> Result<(Vec<Tensor>, OutputOptions), Error> {
    let wishes = OutputOptions::read(wire.id, &wire.parameters, &wire.outputs, model)?;
    let max_bytes = max_body_bytes - MARGIN.min(max_body_bytes / 2);
    let mut room = Room { left: max_bytes, max_bytes, memory };
    let tensors = if columns::is_table(&wire.parameters, &wire.inputs)? {
        columns::read(wire.inputs, &wire.parameters, model, &mut room)?
    } else {
        let read = |input| read_input(input, &wire.parameters, model, &mut room);
        wire.inputs.into_iter().map(read).collect::<Result<_, _>>()?
    };
    validate_inputs(&tensors, model)?;
    Ok((tensors, wishes))
}

fn read_input(
    input: WireInput,
    request: &Parameters,
    model: &ModelMetadata,
    room: &mut Room<'_>,
) -> Result<Tensor, Error> {
    let wanted = find(&input.name, model)?;
    let said = content::said(&input.parameters, request)?;
    let decoding =
        Decoding::of(said.or(wanted.parameters.content_type), matches!(input.data, WireData::Json(_)), wanted);
    let tensor = content::decode(read_tensor(input, room)?, decoding, wanted, room)?;
    // MLServer's codecs send every list as a column.
    let is_column = matches!(said, Some(ContentType::Str | ContentType::Base64 | ContentType::Datetime));
    Ok(if is_column { columns::fit_rank(tensor, wanted) } else { tensor })
}

/// An input's elements, before its content type is looked at.
pub(crate) fn read_tensor(input: WireInput, room: &mut Room<'_>) -> Result<Tensor, Error> {
    let WireInput { name, datatype, shape, data, .. } = input;
    let malformed = |reason: String| Error::malformed(format!("input {}: {reason}", shown(&name)));
    let datatype: Datatype = datatype.parse().map_err(|error: crate::UnknownDatatype| malformed(error.to_string()))?;
    let wrong = |error: TensorError| malformed(error.to_string());
    let data = match data {
        WireData::Raw(data) => data,
        WireData::Json(text) => {
            let lengths = checked_shape(&shape).map_err(wrong)?;
            let fits = byte_length(&lengths, datatype.size().unwrap_or(4)).is_some_and(|bytes| bytes <= room.left);
            if !fits {
                return Err(room.too_large());
            }
            room.reserve(elements::capacity(&text, datatype, &lengths, room.left))?;
            let data = elements::read(&text, datatype, &lengths, room.left).map_err(|error| match error {
                ElementsError::Malformed(reason) => malformed(reason),
                ElementsError::TooLarge => room.too_large(),
            })?;
            data.into()
        }
    };
    room.take(data.len())?;
    Tensor::new(&name, datatype, &shape, data).map_err(wrong)
}

/// What a request's tensors may still take.
pub(crate) struct Room<'a> {
    left: usize,
    max_bytes: usize,
    memory: &'a mut Reservation,
}

impl Room<'_> {
    /// Reserves the memory of what is about to be allocated.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), Error> {
        Ok(self.memory.reserve(bytes)?)
    }

    pub fn take(&mut self, bytes: usize) -> Result<(), Error> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| self.too_large())?;
        Ok(())
    }

    fn too_large(&self) -> Error {
        let words = format!("the tensors of the request take more than {} bytes", self.max_bytes);
        Error::new(StatusCode::PAYLOAD_TOO_LARGE, words)
    }
}
