//! Everything that is tested from outside, in the order in which a request meets it. One binary: linking is the slow part.

mod routes;

mod readiness;

mod pool;

mod service;

mod survival;

mod samples;

mod support;
