//! The routes over HTTP, held against a server that gives back what it gets.

#![allow(clippy::unwrap_used, reason = "a test that panics has said what it found")]

#[path = "../fake/mod.rs"]
mod fake;

/// Requests and answers in a line.
mod support;

/// What the server and its models are.
mod metadata;

/// Asking, in JSON and binary.
mod infer;

/// Text, base64, moments, tables.
mod content_types;

/// Pictures in and out.
mod images;

/// Bodies that come compressed, and answers that go so.
mod compression;

/// Load, unload, index.
mod repository;

/// What is refused, and in which words.
mod invalid_requests;

/// Any tensor, there and back.
mod round_trips;
