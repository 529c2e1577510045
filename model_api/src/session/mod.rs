//! Model sessions: ONNX Runtime behind a process boundary.
//!
//! A request can crash ONNX Runtime. It also keeps memory that it no longer needs, and CUDA errors persist until its process
//! ends. So it runs in child processes, `model_api session`. The parent starts each child with one end of a socket pair as its
//! standard input. [`crate::scheduler`] supervises the children of a model and sends them batches. All modules above see only
//! tensors. Tests replace the children with their own [`Launcher`].
//!
//! Modules stand in dependency order: a module imports only modules that stand above it.

mod error;
mod info;
mod shape;

mod launcher;

mod frame;

mod onnx;

mod cancellation;
mod child_main;

mod gpu_memory;
mod parent;

pub use child_main::child_main;
pub use error::{SessionError, StartError};
pub use info::{DevicePreference, SessionConfig, SessionInfo};
pub use launcher::{Launcher, Session, SessionMemory};
pub use parent::ChildLauncher;
pub use shape::{common_rows, known_shape, narrows};
