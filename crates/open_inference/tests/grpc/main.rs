//! Tests of the gRPC transport with the client of tonic over a socket.

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
