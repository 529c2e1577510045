//! Access checks: who may send a request.

pub mod request_guard;
pub mod shared_secret;
