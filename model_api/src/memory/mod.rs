//! Memory budgets of the process and memory limits of its sessions.
//!
//! Everything that grows with requests has a limit, and the sum of the limits stays below the limit of the container:
//!
//! | memory for | limit |
//! |---|---|
//! | request bodies | `BODY_MEMORY_BYTES`, and 128 KiB for each of `MAX_CONNECTIONS` |
//! | image decoding | `DECODE_THREADS` × `MAX_DECODE_BYTES` |
//! | inputs in queues and runs, all models | `QUEUE_BYTES` |
//! | outputs until they are sent, and their copy in the response | 2 × 256 MiB |
//! | the program | 64 MiB |
//! | all sessions together | the rest, at least two fifths of the total |
//! | one session | `SESSION_MEMORY_BYTES`, by default half of the total or the limit for all sessions, whichever is less |
//!
//! The total is the limit of the cgroup, or else the memory of the machine.

mod budget;
mod cgroup;
mod session_limits;
mod shares;

pub use budget::{Budget, Reservation, bytes_of};
pub use cgroup::{check_process_limit, total_limit};
pub use session_limits::{LimitExceeded, ProcessMemory, SessionLimits};
pub use shares::{Bounds, MAX_RESULT_BYTES, Shares};

#[cfg(test)]
mod tests;
