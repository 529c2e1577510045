//! Access control: request guard and shared secret.

pub mod request_guard;
pub mod shared_secret;
