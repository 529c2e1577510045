use axum::http::StatusCode;
use axum::response::Response;
use service::problem::problem;

/// A path that is not there.
pub async fn no_such_route() -> Response {
    problem(StatusCode::NOT_FOUND, "there is nothing at this path")
}

/// A path that is there, asked in another way.
pub async fn no_such_method() -> Response {
    problem(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
}
