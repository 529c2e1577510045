//! What stands on Redis, over a real one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod jobs;
mod limits;
mod link;
mod memory;
mod old_form;
mod room;
mod server;
mod uploads;
mod webhooks;
mod workers;
