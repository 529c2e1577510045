//! Transport layer of gRPC: a middleware that frames, decompresses and limits the messages of a call and enforces its deadline.

mod deadline;
mod decoded_size;
mod framing;
mod limits;

pub(super) use framing::InFlight;
pub(super) use limits::enforce_limits;
