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
mod log_lines;

/// The thread that writes lines, so that no request waits for stderr.
mod request_log;

/// The log file of a native start, bounded in size.
pub mod log_file;

/// Who still needs time before traffic may come.
pub mod readiness;

/// A scheduler for each core.
pub mod cores;

/// Idle timeouts of connections, apart from the timeout for a request's header.
mod idle;

/// The client's address.
pub mod peer;

/// What a connection does: requests in flight, or idle since when.
mod activity;

/// The bound on open connections, of which idle ones give way to new ones.
mod connection_limit;

/// The limit of open files, raised as far as connections need it.
pub mod descriptors;

/// What bytes of a connection go through.
mod connection;

/// A connection that wakes itself goes on at once.
mod at_once;

/// The accept loop: time-outs, a connection cap, a graceful end.
pub mod server;

/// Names for requests and answers.
pub mod ids;

/// Checks of every request: `Host`, and that no page of another origin changes anything.
pub mod guard;

/// The secret between `web_api` and `model_api`.
pub mod shared_secret;

/// Counts and times of requests, by route.
mod http_metrics;

/// What every route gets: a request id, a log line, a metric, an answer even after a panic.
pub mod middleware;

/// gRPC beside HTTP on one port: errors that its clients understand.
pub mod grpc;

/// Budget of the memory that is held for clients, by capacity.
pub mod memory_budget;

/// A request's body, bounded in bytes, in time and in the memory of all bodies together.
pub mod body;

/// What an error leaves unread of a body.
mod lent;

/// Responses whose memory is reserved until they are sent.
pub mod held;

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
