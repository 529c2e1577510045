//! Free GPU memory, as `nvidia-smi` reports it. A CUDA call would create a context on the GPU, in a process that must not have one.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// Maximum run time of `nvidia-smi`.
const TIMEOUT: Duration = Duration::from_secs(5);

const UNKNOWN: &str = "nvidia-smi does not report the free memory of the GPU";

/// An error unless half of the GPU's memory is free: sessions and their runs need some, and so do other programs.
pub async fn require_half_free() -> Result<(), String> {
    let query = Command::new("nvidia-smi")
        .args(["--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match timeout(TIMEOUT, query).await {
        Ok(Ok(output)) if output.status.success() => check(&String::from_utf8_lossy(&output.stdout)),
        _ => Err(UNKNOWN.to_owned()),
    }
}

/// Checks one line `free, total` for each GPU. The output does not show which GPU CUDA uses, so each one must have the memory.
fn check(output: &str) -> Result<(), String> {
    let mut gpus = 0;
    for line in output.lines() {
        let (free, total) = line.split_once(',').ok_or(UNKNOWN)?;
        let mib = |text: &str| text.trim().parse::<u64>().map_err(|_| UNKNOWN);
        let (free, total) = (mib(free)?, mib(total)?);
        if free < total / 2 {
            return Err(format!("{free} MiB of the GPU's {total} MiB are free, which is less than half"));
        }
        gpus += 1;
    }
    if gpus > 0 { Ok(()) } else { Err(UNKNOWN.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_gpus_of_which_half_of_the_memory_is_free() {
        assert_eq!(check("138291, 143771\n"), Ok(()));
        assert_eq!(check("8192, 8192\n4096, 8192\n"), Ok(()));
        let full = "3000 MiB of the GPU's 8192 MiB are free, which is less than half";
        assert_eq!(check("8192, 8192\n3000, 8192\n"), Err(full.to_owned()));
        for invalid in ["", "No devices were found\n", "[N/A], [N/A]\n", "12, \n"] {
            assert_eq!(check(invalid), Err(UNKNOWN.to_owned()), "{invalid:?}");
        }
    }
}
