//! Conversion between Protocol Buffers messages and the types that all transports share.

pub(super) mod contents;
pub(super) mod metadata;
pub(super) mod request;
pub(super) mod response;
