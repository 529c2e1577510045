use axum::http::StatusCode;
use axum::response::Response;
use service::problem::problem;

/// 404 for a path without a route.
pub async fn no_such_route() -> Response {
    problem(StatusCode::NOT_FOUND, "No such route.")
}

/// 405 for a route with another method.
pub async fn no_such_method() -> Response {
    problem(StatusCode::METHOD_NOT_ALLOWED, "This method is not allowed for this path.")
}
