//! The memory that requests really take is at most [`C`] times what is reserved for them, and a constant, at every moment.
//!
//! A binary of its own: its allocator counts. Each allocation is compared with what is reserved at that moment.
//!
//! [`C`] is 1.5, because some buffers belong to crates that give no other way: a decoded gRPC message's lists double as they grow, where
//! twice what they hold is reserved and three times is allocated for a moment; texts of moments and base64 with line breaks are read into
//! vectors that double. All else is reserved by its capacity.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod bodies;
mod counting;
mod sum;

/// How many times what is reserved may be allocated: [`web_api::memory_bound`] adds the settings up with it.
const C: f64 = web_api::memory_bound::ALLOCATED_PER_RESERVED;

/// What is not reserved: pieces of a body on their way, states of decoders and parsers, the runtime of the test. Bytes.
const CONSTANT: usize = 3 << 20;
