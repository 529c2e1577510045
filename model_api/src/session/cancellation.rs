//! Cancellation channel of a child process: a second socket and a second thread.
//!
//! The thread that runs the model also reads the requests: a handover to another thread would cost each run a wake-up. So it
//! cannot receive a cancellation during a run. A second thread reads the numbers of cancelled runs (u64, little-endian) from
//! another socket. The end of that socket is the end of the parent.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::onnx::CancelFlag;

/// Cancels runs from another thread than the one that executes them.
#[derive(Default)]
pub struct RunCancellation {
    runs: Mutex<RunNumbers>,
    flag: OnceLock<CancelFlag>,
}

#[derive(Default)]
struct RunNumbers {
    started: u64,
    cancelled: u64,
}

impl RunCancellation {
    /// Sets the flag that cancels the runs of the loaded model.
    pub fn set_flag(&self, flag: CancelFlag) {
        let _ = self.flag.set(flag);
    }

    /// Records the start of a run. Returns `false` if the run has already been cancelled.
    pub fn begin_run(&self, number: u64) -> bool {
        let mut runs = self.lock();
        runs.started = number;
        if let Some(flag) = self.flag.get() {
            flag.clear();
        }
        runs.cancelled < number
    }

    /// Reads cancellations until the parent ends. Then ends the process, whatever its other threads are doing.
    pub fn listen(&self, mut parent: UnixStream) -> ! {
        while let Ok(number) = read_number(&mut parent) {
            let mut runs = self.lock();
            runs.cancelled = number;
            // Under the lock: the next run must not start between the comparison and the call.
            if runs.started == number
                && let Some(flag) = self.flag.get()
            {
                flag.set();
            }
        }
        process::exit(0);
    }

    fn lock(&self) -> MutexGuard<'_, RunNumbers> {
        // A panic cannot leave the numbers inconsistent.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_number(from: &mut impl Read) -> io::Result<u64> {
    let mut number = [0; 8];
    from.read_exact(&mut number)?;
    Ok(u64::from_le_bytes(number))
}
