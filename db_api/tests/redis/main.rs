//! What stands on Redis, over a real one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod jobs;
mod memory;
mod server;
mod uploads;
mod webhooks;
