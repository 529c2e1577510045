//! How a child's run is ended.
//!
//! The child's one thread that runs the model also reads its orders: a second one would cost each run the time to wake it up.
//! So it hears nothing while a run is under way. Another thread waits at another socket, on which nothing comes but numbers
//! of runs that are to end (u64, little-endian), and whose end is the parent's.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::onnx::Interrupt;

/// Ends runs from another thread than the one they run on.
#[derive(Default)]
pub struct Ending {
    numbers: Mutex<Numbers>,
    interrupt: OnceLock<Interrupt>,
}

#[derive(Default)]
struct Numbers {
    begun: u64,
    to_end: u64,
}

impl Ending {
    /// What ends the model's runs, as soon as there is a model.
    pub fn arm(&self, interrupt: Interrupt) {
        let _ = self.interrupt.set(interrupt);
    }

    /// A run begins. `false` when it is to end already.
    pub fn begin(&self, number: u64) -> bool {
        let mut numbers = self.numbers();
        numbers.begun = number;
        if let Some(interrupt) = self.interrupt.get() {
            interrupt.clear();
        }
        numbers.to_end < number
    }

    /// Listens until the parent goes away, and ends the process then, whatever its other threads are doing.
    pub fn listen(&self, mut parent: UnixStream) -> ! {
        while let Ok(number) = read_number(&mut parent) {
            let mut numbers = self.numbers();
            numbers.to_end = number;
            // Under the lock: the next run must not begin between the question and the deed.
            if numbers.begun == number
                && let Some(interrupt) = self.interrupt.get()
            {
                interrupt.set();
            }
        }
        process::exit(0);
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        // No code panics between two changes that belong together.
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_number(from: &mut impl Read) -> io::Result<u64> {
    let mut number = [0; 8];
    from.read_exact(&mut number)?;
    Ok(u64::from_le_bytes(number))
}
