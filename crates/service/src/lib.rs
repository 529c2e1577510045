//! How a service of ours lives: reads its settings, tells what it does, serves, becomes ready, and stops.
//!
//! Modules stand in the order in which a process meets them.

/// The command line: `--help`, `--version`, and the word that names a subcommand.
pub mod command_line;

/// Environment variables, read once and checked before a port is bound.
pub mod settings;

/// Log lines for people or for machines.
pub mod telemetry;

/// What a line looks like.
mod text_format;

/// The thread that writes lines, so that no request waits for stderr.
mod access_log;

/// The log file of a native start, bounded in size.
pub mod log_file;

/// Who still needs time before traffic may come.
pub mod readiness;

/// A scheduler for each core.
pub mod runtime;

/// Idle timeouts of connections, apart from the timeout for a request's header.
mod idle_timeout;

/// The client's address.
pub mod peer;

/// What a connection does: requests in flight, or idle since when.
mod connection_activity;

/// The bound on open connections, of which idle ones give way to new ones.
mod connection_limit;

/// The limit of open files, raised as far as connections need it.
pub mod open_files;

/// What bytes of a connection go through.
mod timeout_stream;

/// A connection that wakes itself goes on at once.
mod inline_wake;

/// The accept loop: time-outs, a connection cap, a graceful end.
pub mod http_server;

/// Names for requests and answers.
pub mod request_id;

/// Checks of every request: `Host`, and that no page of another origin changes anything.
pub mod request_guard;

/// The secret between `web_api` and `model_api`.
pub mod shared_secret;

/// Counts and times of requests, by route.
mod http_metrics;

/// What every route gets: a request id, a log line, a metric, an answer even after a panic.
pub mod instrument;

/// gRPC beside HTTP on one port: errors that its clients understand.
pub mod grpc_status;

/// Budget of the memory that is held for clients, by capacity.
pub mod memory_budget;

/// A request's body, bounded in bytes, in time and in the memory of all bodies together.
pub mod body_limits;

/// What an error leaves unread of a body.
mod body_drain;

/// Responses whose memory is reserved until they are sent.
pub mod response_body;

/// Answers that a client has already.
pub mod conditional;

/// Errors as RFC 9457 documents.
pub mod problem;

/// `GET /metrics` on a listener of its own.
pub mod metrics;

/// SIGTERM and SIGINT: the first is a request, the second an order.
pub mod shutdown;

/// The `health` and `metrics` subcommands: a container's health check, and its metrics, without curl in the image.
pub mod health;
