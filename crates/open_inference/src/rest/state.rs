//! State of the routes.

use service::body_limits::BodyReader;

/// State that all routes share.
#[derive(Clone)]
pub(super) struct RestState<S> {
    pub server: S,
    pub bodies: BodyReader,
}
