//! The protocol over gRPC, asked by tonic's client over a socket; in the order in which a call meets the code.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

mod frames;

mod bounds;

mod calls;

mod infer;

mod datatypes;

mod pictures;

mod stream;

mod repository;

mod health;

mod reflection;
