//! Test that the generated code of `open_inference` matches `proto/`.
//!
//! A separate package, so that generated code that no longer compiles can still be regenerated.
