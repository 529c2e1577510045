use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::problem::RETRY_AFTER_SECONDS;

const MEDIA_TYPE: &str = "application/grpc";
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Clients of gRPC understand nothing else: what no gRPC service answered, since there is none or since it failed, becomes a
/// status of gRPC.
pub(crate) async fn answer_in_kind(request: Request, next: Next) -> Response {
    let is_call = is_grpc(request.headers());
    let response = next.run(request).await;
    if !is_call || is_grpc(response.headers()) {
        return response;
    }
    // The codes by which gRPC's own documents say what an HTTP status means, but for 404: no such call.
    let (code, message) = match response.status() {
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => (12, "there is no such call"),
        StatusCode::SERVICE_UNAVAILABLE => (14, "try again later"),
        _ => (13, "the call failed"),
    };
    let mut answer = Body::empty().into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(STATUS, HeaderValue::from(code));
    headers.insert(MESSAGE, HeaderValue::from_static(message));
    if code == 14 {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    }
    answer
}

/// What HTTP would have said in place of the gRPC status in an answer's head: for logs and metrics, where gRPC's 200 says
/// nothing. `None` where the head has no such status, also because the call has only begun.
pub(crate) fn http_status(answer: &HeaderMap) -> Option<StatusCode> {
    let code = answer.get(STATUS)?.to_str().ok()?.parse::<u8>().ok()?;
    Some(match code {
        0 => StatusCode::OK,
        3 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        7 => StatusCode::FORBIDDEN,
        8 => StatusCode::TOO_MANY_REQUESTS,
        9 => StatusCode::CONFLICT,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    })
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    // gRPC-Web is another protocol.
    value.strip_prefix(MEDIA_TYPE.as_bytes()).is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::from_fn;
    use axum::routing::{get, post};
    use tower::ServiceExt;

    use super::*;

    async fn ask(path: &str, media_type: &str) -> Response {
        let app = Router::new()
            .route("/busy", post(|| async { StatusCode::SERVICE_UNAVAILABLE }))
            .route("/broken", post(|| async { StatusCode::INTERNAL_SERVER_ERROR }))
            .route("/get", get(|| async {}))
            .route("/grpc", post(|| async { ([("content-type", "application/grpc"), ("grpc-status", "5")], "") }))
            .layer(from_fn(answer_in_kind));
        let request = Request::post(path).header(header::CONTENT_TYPE, media_type).body(Body::empty()).unwrap();
        app.oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn whoever_speaks_grpc_is_answered_in_grpc() {
        for (path, code) in
            [("/package.Service/Call", "12"), ("/get", "12"), ("/busy", "14"), ("/broken", "13"), ("/grpc", "5")]
        {
            for media_type in ["application/grpc", "application/grpc+proto"] {
                let answer = ask(path, media_type).await;
                assert_eq!(answer.status(), StatusCode::OK, "{path}");
                assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/grpc");
                assert_eq!(answer.headers()[STATUS], code, "{path}");
                assert_eq!(answer.headers().contains_key(header::RETRY_AFTER), code == "14");
            }
        }
    }

    #[tokio::test]
    async fn everybody_else_is_answered_as_ever() {
        for media_type in ["application/json", "application/grpc-web", ""] {
            let answer = ask("/nothing", media_type).await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND);
            assert_eq!(http_status(answer.headers()), None);
        }
    }

    #[tokio::test]
    async fn a_status_of_grpc_has_its_like_in_http() {
        assert_eq!(http_status(ask("/grpc", "application/grpc").await.headers()), Some(StatusCode::NOT_FOUND));
        assert_eq!(
            http_status(ask("/busy", "application/grpc").await.headers()),
            Some(StatusCode::SERVICE_UNAVAILABLE)
        );
        let forbidden = HeaderMap::from_iter([(STATUS, HeaderValue::from(7))]);
        assert_eq!(http_status(&forbidden), Some(StatusCode::FORBIDDEN));
    }
}
