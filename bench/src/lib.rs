//! What `bench/run.sh` measures with: a load generator, and what nothing could be faster than.
//!
//! Modules stand in the order in which a question of the load generator meets them.

/// What the command line says.
pub mod arguments;

/// A picture as floats, in every spelling.
mod tensor;

/// Requests made beforehand, and the places in them that make each another question.
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

/// Connections that ask until the time is over.
pub mod load;

/// What nothing could be faster than.
pub mod limits;
