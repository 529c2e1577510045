//! Nothing but a test: the code that `open_inference` has generated from `proto/`, held against `proto/`.
//!
//! A package of its own, so that generated code that does not compile any more can still be renewed.
