//! Limits of the cgroup and the machine: memory, and processes with their threads.

use std::fs;
use std::path::Path;

/// Threads of a session process that do not compute.
const SESSION_THREADS: u64 = 8;

/// Bytes that this process and its sessions may use: the limit of the cgroup, or else the memory of the machine.
pub fn total_limit() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|info| kibibytes(&info, "MemTotal:"));
    let machine = machine.map_or(u64::MAX, |kibibytes| kibibytes << 10);
    cgroup_value("memory.max", "memory/memory.limit_in_bytes").map_or(machine, |limit| limit.min(machine))
}

/// An error if the cgroup has too few free processes for a session with `threads` threads: its start would fail at random.
pub fn check_process_limit(threads: usize) -> Result<(), String> {
    let limit = cgroup_value("pids.max", "pids/pids.max");
    let current = cgroup_value("pids.current", "pids/pids.current");
    let (Some(limit), Some(current)) = (limit, current) else { return Ok(()) };
    check_free_processes(limit, current, SESSION_THREADS + threads as u64)
}

pub(super) fn check_free_processes(limit: u64, current: u64, needed: u64) -> Result<(), String> {
    if current.saturating_add(needed) <= limit {
        return Ok(());
    }
    Err(format!(
        "a session needs {needed} threads, and {current} of {limit} processes and threads of this container are in use; \
         unload models, name fewer in MODEL_NAME, or raise the limit `pids` of model_api in docker-compose.yml"
    ))
}

/// A value of the cgroup, version 2 or 1. `None` if there is none or if it is "max".
fn cgroup_value(name: &str, name_in_version_1: &str) -> Option<u64> {
    let root = Path::new("/sys/fs/cgroup");
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
    // In a container the folder of the cgroup is the root. Elsewhere each parent folder may have a limit as well.
    let folders = Path::new(&own).ancestors().map(|folder| root.join(folder).join(name));
    let values = folders.chain([root.join(name_in_version_1)]).filter_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        text.trim().parse::<u64>().ok()
    });
    values.min()
}

/// The value of the line `name` in a file of `/proc`, KiB.
pub(super) fn kibibytes(lines: &str, name: &str) -> Option<u64> {
    lines.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}
