//! Calls of the function library, and the limits of what one command may carry.

use std::time::Duration;

use redis::{Cmd, cmd};

/// Timeout of a command. Longer than that of the result cache, since there is no fallback for the queue.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of inputs and results that are read concurrently; a single larger value is read alone. Redis closes connections whose replies
/// fill `client-output-buffer-limit`, or `maxmemory-clients` together with those of other clients.
pub const MAX_READ_BYTES: usize = 8 << 20;

/// The longest value that Redis accepts with the `proto-max-bulk-len` of `redis.conf`. It closes the connection on a longer one.
pub const MAX_VALUE_BYTES: usize = 16 << 20;

/// Inputs, outcomes or names in one call of a function.
pub const CHUNK_INPUTS: usize = 500;

/// Bytes in one call of a function; a single larger input is sent alone.
pub const CHUNK_BYTES: usize = 1 << 20;

/// A call of one function of the library, with its only key.
pub fn call(function: &str, key: &str) -> Cmd {
    let mut call = cmd("FCALL");
    call.arg(format!("mlserve_{function}")).arg(1).arg(key);
    call
}
