//! Integration tests. They are one binary because linking is the slow part.

#![allow(clippy::unwrap_used, reason = "a panic is the report of a failed test")]

mod repository;

mod reload;

mod watch;

mod lifetimes;

mod pipelines;

mod routes;

mod infer;

mod readiness;

mod scheduler;

mod session;

mod service;

mod protocol;

mod session_recovery;

mod batching;

mod poison_requests;

mod samples;

mod support;
