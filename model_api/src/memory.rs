//! Memory budgets of the process and memory limits of its sessions.
//!
//! Everything that grows with requests has a bound, and the sum of the bounds stays below the limit of the container:
//!
//! | what | bound |
//! |---|---|
//! | bodies of requests | `BODY_MEMORY_BYTES`, and 128 KiB for each of `MAX_CONNECTIONS` |
//! | images while they are decoded | `DECODE_THREADS` × `MAX_DECODE_BYTES` |
//! | inputs that wait or run, of all models | `QUEUE_BYTES` |
//! | outputs until they are sent, and their copy in the response | 2 × 256 MiB |
//! | the program | 64 MiB |
//! | all sessions together | what is left of the limit, two fifths of it at least |
//! | one session | `SESSION_MEMORY_BYTES`; half of the limit by default, or less where all sessions have less |
//!
//! The limit is that of the cgroup, or else the memory of the machine.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use open_inference::Tensor;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use crate::session::MAX_RESULT_BYTES;

/// The program itself: code, tables, threads, metrics.
const PROGRAM_BYTES: u64 = 64 << 20;

/// What each connection may have of its body without a reservation (`service::body_limits`).
const FREE_BODY_BYTES: u64 = 128 << 10;

/// Outputs are in memory once as tensors and once in the response.
const RESULT_COPIES: u64 = 2;

/// All sessions together have two fifths of the limit at least, whatever other settings say.
const LEAST_PART: u64 = 5;
const LEAST_PARTS: u64 = 2;

/// The bounds that settings name, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// `BODY_MEMORY_BYTES`.
    pub bodies: u64,
    /// `MAX_CONNECTIONS`.
    pub connections: u64,
    /// `DECODE_THREADS` × `MAX_DECODE_BYTES`.
    pub decoding: u64,
    /// `QUEUE_BYTES`.
    pub inputs: u64,
}

/// How the memory is shared out, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// This process.
    pub own: u64,
    /// All sessions together.
    pub sessions: u64,
    /// One session.
    pub session: u64,
}

impl Shares {
    /// Shares out `limit` bytes. `session` is `SESSION_MEMORY_BYTES` where it is set; it may raise the share of all sessions.
    pub fn new(limit: u64, bounds: &Bounds, session: Option<u64>) -> Self {
        let results = RESULT_COPIES * MAX_RESULT_BYTES as u64;
        let bodies = bounds.bodies.saturating_add(bounds.connections.saturating_mul(FREE_BODY_BYTES));
        let own =
            [bodies, bounds.decoding, bounds.inputs, results].into_iter().fold(PROGRAM_BYTES, u64::saturating_add);
        let sessions = limit.saturating_sub(own).max(limit / LEAST_PART * LEAST_PARTS).max(session.unwrap_or_default());
        Self { own, sessions, session: session.unwrap_or_else(|| sessions.min(limit / 2)) }
    }
}

/// A bounded number of bytes for one purpose. Clones share it.
#[derive(Clone, Debug)]
pub struct Budget {
    pieces: Arc<Semaphore>,
    total: u32,
}

/// Bytes are reserved in pieces of this size.
const PIECE: usize = 64 << 10;

/// Less than this needs no reservation: the number of requests bounds it.
const FREE_BYTES: usize = 64 << 10;

/// The reservation of some bytes. Dropping it gives them back.
#[derive(Debug)]
pub struct Reserved(#[allow(dead_code, reason = "it is held")] Option<Arc<OwnedSemaphorePermit>>);

/// Bytes, and the reservation for them.
struct Held {
    bytes: Bytes,
    _reserved: Arc<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Budget {
    /// Of `bytes` bytes.
    pub fn new(bytes: usize) -> Self {
        let total = u32::try_from(bytes.div_ceil(PIECE)).unwrap_or(u32::MAX).clamp(1, 1 << 28);
        Self { pieces: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// Its size, bytes.
    pub fn bytes(&self) -> usize {
        self.total as usize * PIECE
    }

    /// `None` where others have so much that there is no room. What is larger than the whole budget needs all of it.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reserved> {
        if bytes <= FREE_BYTES {
            return Some(Reserved(None));
        }
        let permit = Arc::clone(&self.pieces).try_acquire_many_owned(self.pieces_of(bytes)).ok()?;
        Some(Reserved(Some(Arc::new(permit))))
    }

    /// Waits until there is room. Cancel-safe.
    pub async fn reserve(&self, bytes: usize) -> Reserved {
        if bytes <= FREE_BYTES {
            return Reserved(None);
        }
        // Nobody closes it.
        Reserved(Arc::clone(&self.pieces).acquire_many_owned(self.pieces_of(bytes)).await.ok().map(Arc::new))
    }

    fn pieces_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(PIECE)).unwrap_or(u32::MAX).min(self.total)
    }
}

impl Reserved {
    /// The same bytes, which give the reservation back when the last copy of them is dropped.
    pub fn hold(&self, bytes: Bytes) -> Bytes {
        match &self.0 {
            Some(reserved) => Bytes::from_owner(Held { bytes, _reserved: Arc::clone(reserved) }),
            None => bytes,
        }
    }

    /// The same for each tensor.
    pub fn hold_all(&self, tensors: Vec<Tensor>) -> Vec<Tensor> {
        if self.0.is_none() {
            return tensors;
        }
        tensors.into_iter().map(|tensor| Tensor { data: self.hold(tensor.data), ..tensor }).collect()
    }
}

/// Bytes of the data of all tensors.
pub fn bytes_of(tensors: &[Tensor]) -> usize {
    tensors.iter().map(|tensor| tensor.data.len()).sum()
}

/// Memory limits of session processes. Clones share the figures.
#[derive(Clone, Debug)]
pub struct SessionLimits {
    /// One session, bytes.
    each: u64,
    /// All sessions together, bytes.
    all: u64,
    /// What each process used when it was last read, bytes.
    used: Arc<Mutex<HashMap<u32, u64>>>,
}

/// Why a session was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// It used more than one session may, in bytes.
    Each(u64),
    /// All sessions used more than they may together, in bytes, and this one was growing.
    All(u64),
}

impl std::fmt::Display for Exceeded {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Each(limit) => {
                write!(formatter, "the model's session used more than {limit} bytes of memory (SESSION_MEMORY_BYTES)")
            }
            Self::All(limit) => write!(
                formatter,
                "the sessions of all models used more than {limit} bytes of memory together, which is what is left for them"
            ),
        }
    }
}

/// Time between two looks at the memory of a session that runs. Runs that are shorter are not looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A session that is within this many bytes of its size after warm-up is not ended for the sum of all.
const GROWTH_BYTES: u64 = 64 << 20;

impl SessionLimits {
    /// One session may use `each` bytes, and all together `all`.
    pub fn new(each: u64, all: u64) -> Self {
        Self { each, all, used: Arc::default() }
    }

    /// No limits.
    pub fn none() -> Self {
        Self::new(u64::MAX, u64::MAX)
    }

    /// Bytes that all sessions together may still take.
    pub fn room(&self) -> u64 {
        self.all.saturating_sub(self.sum())
    }

    fn sum(&self) -> u64 {
        self.used().values().fold(0, |sum, &used| sum.saturating_add(used))
    }

    fn used(&self) -> MutexGuard<'_, HashMap<u32, u64>> {
        // No code panics between two changes that belong together.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory of one session process. Dropping it takes it out of the sum.
#[derive(Debug)]
pub struct Usage {
    limits: SessionLimits,
    process: u32,
}

impl Usage {
    /// Of the process with this id.
    pub fn new(limits: SessionLimits, process: u32) -> Self {
        Self { limits, process }
    }

    /// Bytes that it uses now; `None` where the process is gone.
    pub fn read(&self) -> Option<u64> {
        let used = used_by(self.process)?;
        self.limits.used().insert(self.process, used);
        Some(used)
    }

    /// Bytes that all sessions may still take.
    pub fn room(&self) -> u64 {
        self.limits.room()
    }

    /// Resolves when the process uses more than it may. `warm` is its size after warm-up, bytes; `None` while it is being started:
    /// then it may use what one session may.
    pub async fn exceeded(&self, warm: Option<u64>) -> Exceeded {
        loop {
            sleep(LOOK_INTERVAL).await;
            let Some(used) = self.read() else { continue };
            if used > self.limits.each {
                return Exceeded::Each(self.limits.each);
            }
            let has_grown = warm.is_some_and(|warm| used > warm.saturating_add(GROWTH_BYTES));
            if has_grown && self.limits.sum() > self.limits.all {
                return Exceeded::All(self.limits.all);
            }
        }
    }
}

impl Drop for Usage {
    fn drop(&mut self) {
        self.limits.used().remove(&self.process);
    }
}

/// The anonymous memory of a process, bytes: pages of files and libraries are shared, and the system takes them back.
fn used_by(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    Some(kibibytes(&status, "RssAnon:")? << 10)
}

fn kibibytes(lines: &str, name: &str) -> Option<u64> {
    lines.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// Bytes that this process and its sessions may use: the limit of the cgroup, or else the memory of the machine.
pub fn limit() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|info| kibibytes(&info, "MemTotal:"));
    let machine = machine.map_or(u64::MAX, |kibibytes| kibibytes << 10);
    cgroup_figure("memory.max", "memory/memory.limit_in_bytes").map_or(machine, |limit| limit.min(machine))
}

/// A figure of the cgroup, in version 2 or 1; `None` where it has none or says "max".
fn cgroup_figure(name: &str, name_in_version_1: &str) -> Option<u64> {
    let root = Path::new("/sys/fs/cgroup");
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
    // In a container the cgroup's own folder is the root; elsewhere each folder above may have a limit as well.
    let folders = Path::new(&own).ancestors().map(|folder| root.join(folder).join(name));
    let figures = folders.chain([root.join(name_in_version_1)]).filter_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        text.trim().parse::<u64>().ok()
    });
    figures.min()
}

/// Threads of a session beside those that compute.
const SESSION_THREADS: u64 = 8;

/// An error, in words, where the cgroup has no room for a session's process and its threads: starting it would fail by chance.
pub fn has_room_for_process(threads: usize) -> Result<(), String> {
    let limit = cgroup_figure("pids.max", "pids/pids.max");
    let current = cgroup_figure("pids.current", "pids/pids.current");
    let (Some(limit), Some(current)) = (limit, current) else { return Ok(()) };
    room_for_process(limit, current, SESSION_THREADS + threads as u64)
}

fn room_for_process(limit: u64, current: u64, needed: u64) -> Result<(), String> {
    if current.saturating_add(needed) <= limit {
        return Ok(());
    }
    Err(format!(
        "a session needs {needed} threads, and {current} of {limit} processes and threads of this container are in use; \
         unload models, name fewer in MODEL_NAME, or raise the limit `pids` of model_api in docker-compose.yml"
    ))
}

#[cfg(test)]
mod tests;
