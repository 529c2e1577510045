//! Integration tests of the cache and the job queue with a real Redis server.
#![allow(clippy::unwrap_used, reason = "a panic names the failing line")]

mod cache;
mod capacity;
mod connection;
mod jobs;
mod limits;
mod server;
mod upgrade;
mod uploads;
mod webhooks;
mod workers;
