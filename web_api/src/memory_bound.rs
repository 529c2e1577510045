//! Upper bound of this process's memory, from its settings. A test compares it with the limit of the container.

use db_api::jobs::MAX_IN_MEMORY_BYTES;

use crate::settings::Settings;

/// Bytes that are allocated for each byte that is reserved, at most: what some crates allocate while their buffers grow. The property test
/// in `tests/memory` measures it.
pub const ALLOCATED_PER_RESERVED: f64 = 1.5;

/// What a connection has beside bodies: hyper's buffers for reading and writing, 64 KiB at most together as long as nothing large is read,
/// its task, and the socket's place in tables.
const CONNECTION_BYTES: u64 = 80 << 10;

/// A small question on its way: in a batch with others (64 KiB at most), in the request for it, and the response.
const REQUEST_BYTES: u64 = 3 * (64 << 10);

/// Cached results are counted by their form; the table's own tables and what the allocator adds make it a quarter more.
const NEAR_CACHE_PERCENT: u64 = 125;

/// The program itself: code, threads, the catalog, the page.
const BASE_BYTES: u64 = 64 << 20;

/// Bytes that a process with these settings has at most.
///
/// Not in it: results of several megabytes between the model and the response, which are counted as they come and as they go.
pub fn memory_bound(settings: &Settings) -> u64 {
    let reserved = (settings.server.body_memory_bytes as f64 * ALLOCATED_PER_RESERVED) as u64;
    let near = settings.near_cache_bytes / 100 * NEAR_CACHE_PERCENT;
    let jobs = if settings.redis_url.is_some() { 0 } else { MAX_IN_MEMORY_BYTES as u64 };
    let connections = settings.server.max_connections as u64 * CONNECTION_BYTES;
    let requests = settings.max_concurrent_requests as u64 * REQUEST_BYTES;
    reserved + near + jobs + connections + requests + BASE_BYTES
}
