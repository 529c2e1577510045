//! Run options: the selected outputs, and the flag that cancels a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::session::{HasSelectedOutputs, RunOptions};

/// Run options of one model. Only the served outputs are selected: ONNX Runtime skips operators that only others need.
pub struct Options {
    pub run: RunOptions<HasSelectedOutputs>,
    is_cancelled: AtomicBool,
}

// SAFETY: `ort` restricts options with selected outputs to one thread, because several threads would write to preallocated
// outputs. There are none here, and ONNX Runtime allows any thread to set the flag (`RunOptionsSetTerminate`).
#[allow(unsafe_code, reason = "the type system cannot know that no output is preallocated")]
unsafe impl Sync for Options {}

impl Options {
    /// Options with a cleared flag.
    pub fn new(run: RunOptions<HasSelectedOutputs>) -> Self {
        Self { run, is_cancelled: AtomicBool::new(false) }
    }

    /// Whether the flag is set.
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::SeqCst)
    }
}

/// Cancels runs from another thread.
#[derive(Clone)]
pub struct CancelFlag(Arc<Options>);

impl CancelFlag {
    /// The flag of these options.
    pub fn new(options: &Arc<Options>) -> Self {
        Self(Arc::clone(options))
    }

    /// Cancels the current run, or the next one, before its next operator.
    pub fn set(&self) {
        self.0.is_cancelled.store(true, Ordering::SeqCst);
        // If this fails, the run does not respond to the cancellation, and the parent kills the process.
        let _ = self.0.run.terminate();
    }

    /// Allows runs again.
    pub fn clear(&self) {
        if self.0.is_cancelled.swap(false, Ordering::SeqCst) {
            let _ = self.0.run.unterminate();
        }
    }
}
