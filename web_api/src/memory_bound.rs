//! Upper bound of this process's memory, computed from its settings. A test compares it with the memory limit of the container.

use db_api::jobs::MAX_IN_MEMORY_BYTES;

use crate::settings::Settings;

/// Upper bound of the bytes allocated per reserved byte: some crates allocate more while their buffers grow. The property test in
/// `tests/memory` measures it.
pub const ALLOCATED_PER_RESERVED: f64 = 1.5;

/// Memory of a connection without its bodies: the read and write buffers of hyper, together at most 64 KiB until something large is
/// read; its task; and its entries in tables.
const CONNECTION_BYTES: u64 = 80 << 10;

/// Memory of a small request in flight: in a batch of at most 64 KiB, in the encoded request, and in the response.
const REQUEST_BYTES: u64 = 3 * (64 << 10);

/// Cached results are counted by their size in bytes. The hash table and the allocator add up to a quarter.
const NEAR_CACHE_PERCENT: u64 = 125;

/// The program itself: code, threads, the catalog, the page.
const BASE_BYTES: u64 = 64 << 20;

/// Upper bound of the memory of a process with these settings, bytes.
///
/// Results of several megabytes in transit between model and response are not included. They are reserved while they are received and
/// while they are sent.
pub fn memory_bound(settings: &Settings) -> u64 {
    let reserved = (settings.server.body_memory_bytes as f64 * ALLOCATED_PER_RESERVED) as u64;
    let near = settings.near_cache_bytes / 100 * NEAR_CACHE_PERCENT;
    let jobs = if settings.redis_url.is_some() { 0 } else { MAX_IN_MEMORY_BYTES as u64 };
    let connections = settings.server.max_connections as u64 * CONNECTION_BYTES;
    let requests = settings.max_concurrent_requests as u64 * REQUEST_BYTES;
    reserved + near + jobs + connections + requests + BASE_BYTES
}
