//! What `bench/run.sh` measures with: a load generator, and what nothing could be faster than.
//!
//! Modules are listed in the order in which a request of the load generator meets them.

/// The command line.
pub mod arguments;

/// An image as floats, in every encoding.
mod tensor;

/// Prepared requests, and the positions in them that make each unique.
pub mod question;

/// When a request is sent.
pub mod pace;

/// Over HTTP/1.1.
pub mod http1;

/// Over HTTP/2: a unary call.
pub mod grpc;

/// Whether an answer is the right one.
pub mod check;

/// What came of it all.
pub mod tally;

/// Connections that send requests until the time is over.
pub mod load;

/// What nothing could be faster than.
pub mod limits;
