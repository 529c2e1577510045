/// A list's elements, one after the other.
mod scanner;

/// Short decimal numbers → floats.
mod decimal;

/// `data` of an input → raw elements.
pub(crate) mod elements;

/// Objects, and not lists in their place.
pub(crate) mod object;

/// Lists that stay short.
mod at_most;

/// UTF-8, with or without a byte order mark.
mod encoding;

/// What a request allocates beside its elements.
pub(crate) mod weight;

/// Requests.
mod request;

/// Answers.
mod response;

pub use encoding::{NotUtf8, utf8_json};
pub use request::parse_request;
pub(crate) use response::write_output;
pub use response::{JsonResponse, request_to_json, response_to_json};
