//! The protocol over gRPC, asked by tonic's client over a socket; in the order in which a call meets the code.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

mod framing;

mod limits;

mod metadata;

mod infer;

mod datatypes;

mod images;

mod stream;

mod repository;

mod health;

mod reflection;
