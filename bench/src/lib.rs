//! The load generator of `bench/run.sh`, and the limits that nothing can exceed.
//!
//! Modules are listed in the order in which a request of the load generator meets them.

/// The command line.
pub mod arguments;

/// An image as floats, in every encoding.
mod tensor;

/// Prepared requests, and the positions in them that make each unique.
pub mod load_request;

/// When a request is sent.
pub mod pace;

/// Over HTTP/1.1.
pub mod http1;

/// Over HTTP/2: a unary call.
pub mod grpc;

/// Verifies a response.
pub mod check;

/// Counts responses.
pub mod tally;

/// Connections that send requests until the time is over.
pub mod load;

/// The limits: the least work with which a request can be served.
pub mod limits;
