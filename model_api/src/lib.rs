//! What thinks: a folder of ONNX models, served.
//!
//! Modules stand in the order in which first a model and then a request meet them.

/// The command line, and its `--help`.
pub mod help;

/// Every variable, its default, its meaning.
pub mod settings;

/// Which of two versions is the larger.
mod version;

/// Why a file cannot be read, in words for people.
mod unreadable;

/// Which models and versions there are.
pub mod repository;

/// What a folder says about its model beyond the graph.
pub mod model_settings;

/// What outputs are: settings and graph together.
mod output_settings;

/// What Triton's configuration file says.
mod triton_config;

/// The ONNX file format.
mod onnx_file;

/// Files that belong to a graph.
mod external_data;

/// What a graph shows before it has run.
pub mod analysis;

/// What a model's answers depend on.
mod digest;

/// Memory budgets of the process, and limits of its sessions.
pub mod memory;

/// The seam below which ONNX Runtime begins.
pub mod session;

/// A model's sessions, and the requests that wait for them.
pub mod scheduler;

/// Settings held against the graph.
mod signature;

/// A model that is made of others.
pub mod pipeline;

/// What a model version's files say.
mod contents;

/// A model, and the sessions or the steps that run it.
pub mod model;

/// From a model's files to its first answer.
pub mod loader;

/// Every version's place.
mod shelf;

/// Every model that is served, or is to be.
pub mod models;

/// Whether a folder has changed.
mod fingerprint;

/// Folders that change while the service runs.
pub mod watch;

/// Parts → serve → wait.
pub mod run;

/// Who may load and unload models.
pub mod repository_access;

/// The state, and all routes on one screen.
pub mod app;

/// One file for each thing that can be asked.
mod routes;

/// The engine as a server of the Open Inference Protocol.
mod v2;

/// The one verb.
mod infer;

/// Inputs that came as encoded pictures.
mod pictures;

/// Work that takes a core, off the reactor.
pub mod decoder;

/// An encoded picture becomes the tensor a model expects, within limits.
pub mod image_input;

/// Why a request got no answer: one table.
pub mod error;

/// What is counted.
pub mod metrics;
