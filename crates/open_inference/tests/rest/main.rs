//! Tests of the REST transport against a server that returns its inputs.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

#[path = "../fake/mod.rs"]
mod fake;

/// Requests and responses.
mod support;

/// Metadata, health, statistics.
mod metadata;

/// Inference in JSON and binary.
mod infer;

/// Text, base64, dates, tables.
mod content_types;

/// Images as inputs and outputs.
mod images;

/// Compressed requests and responses.
mod compression;

/// Load, unload, index.
mod repository;

/// Rejected requests and their error messages.
mod invalid_requests;

/// Round trips of arbitrary tensors.
mod round_trips;
