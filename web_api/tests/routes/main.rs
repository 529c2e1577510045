//! Tests of the routes with a fake `model_api`. Everything except the network is real.

#![allow(clippy::unwrap_used, reason = "a panic in a test names its line")]

mod batcher;
mod browsers;
mod cache;
mod docs;
mod fake_model_api;
mod health;
mod job_worker;
mod jobs;
mod legacy_array;
mod memory;
mod page;
mod pipelines;
mod predict;
mod protocol;
mod results;
mod rows;
mod stack;
mod uploads;
mod webhooks;
