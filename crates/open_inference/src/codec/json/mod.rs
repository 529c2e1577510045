//! JSON codec of requests and responses, with binary tensor data after the JSON.

pub(crate) mod allocation;
pub(crate) mod array;
mod bounded;
mod decimal;
mod encoding;
pub(crate) mod object;
mod request;
mod response;
mod scanner;

pub use encoding::{NotUtf8, utf8_json};
pub use request::parse_request;
pub(crate) use response::write_output;
pub use response::{JsonResponse, request_to_json, response_to_json};
