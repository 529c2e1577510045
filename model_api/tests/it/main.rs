//! Everything that is tested from outside, in the order in which a request meets it. One binary: linking is the slow part.

#![allow(clippy::unwrap_used, reason = "a test that panics has said what it found")]

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
