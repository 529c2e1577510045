//! The memory allocated for requests is at most [`C`] times the reserved memory plus a constant, at all times.
//!
//! A test binary of its own, because its allocator counts. Each allocation is compared with the memory that is reserved at that moment.
//!
//! [`C`] is 1.5 because of buffers in other crates. Lists of decoded gRPC messages double as they grow: twice their content is reserved,
//! and three times is allocated for a moment. Texts of timestamps and base64 with line breaks are read into vectors that double. All other
//! buffers are reserved by their capacity.

#![allow(clippy::unwrap_used, reason = "a panic in a test names its line")]

mod bodies;
mod counting;
mod sum;

/// Upper bound of the bytes allocated per reserved byte, which [`web_api::memory_bound`] uses as well.
const C: f64 = web_api::memory_bound::ALLOCATED_PER_RESERVED;

/// Memory that is not reserved: body chunks in transit, state of decoders and parsers, the runtime of the test. Bytes.
const CONSTANT: usize = 3 << 20;
