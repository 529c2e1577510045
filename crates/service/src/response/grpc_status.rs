//! Mapping between HTTP and gRPC statuses.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::problem::RETRY_AFTER_SECONDS;

const MEDIA_TYPE: &str = "application/grpc";
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// gRPC codes and their HTTP statuses. Logs and metrics use the first HTTP status of a code.
const CODES: [(i32, &[u16]); 9] = [
    (0, &[200]),
    (3, &[400, 415, 422]),
    (4, &[504, 408]),
    (5, &[404]),
    (7, &[403]),
    (8, &[413, 429]),
    (9, &[409]),
    (12, &[501]),
    (14, &[503]),
];

/// `INTERNAL`, the code of every HTTP status that is not in the table.
const INTERNAL: i32 = 13;

/// gRPC code of an HTTP status.
pub fn code_for_http(status: StatusCode) -> i32 {
    CODES.iter().find(|(_, statuses)| statuses.contains(&status.as_u16())).map_or(INTERNAL, |(code, _)| *code)
}

/// Converts a response of no gRPC service, such as an error of the router, to a gRPC status, since gRPC clients
/// understand nothing else. gRPC responses are returned unchanged.
pub(crate) fn to_grpc_response(response: Response) -> Response {
    if is_grpc(response.headers()) {
        return response;
    }
    // Codes from gRPC's mapping of HTTP statuses, except 404: it means `UNIMPLEMENTED` here.
    let (code, message) = match response.status() {
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => (12, "No such gRPC method."),
        StatusCode::SERVICE_UNAVAILABLE => (14, "Service unavailable; retry later."),
        _ => (13, "Internal error; see the server log for this request ID."),
    };
    let mut response = trailers_only(code, HeaderValue::from_static(message));
    if code == 14 {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    }
    response
}

/// Trailers-only response to a rejected request, with `detail` as its message.
pub(crate) fn reject(status: StatusCode, detail: &str) -> Response {
    let code = if status == StatusCode::BAD_REQUEST { 3 } else { 7 };
    let mut response = trailers_only(code, HeaderValue::from_static("The request is rejected."));
    // gRPC messages are percent-encoded.
    if let Ok(message) = HeaderValue::from_str(&detail.replace('%', "%25")) {
        response.headers_mut().insert(MESSAGE, message);
    }
    response
}

fn trailers_only(code: u16, message: HeaderValue) -> Response {
    let mut response = Body::empty().into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(STATUS, HeaderValue::from(code));
    headers.insert(MESSAGE, message);
    response
}

/// HTTP status that corresponds to the gRPC status in a response header. Logs and metrics use it because the HTTP
/// status of gRPC is always 200. `None` if the header has no gRPC status, also because the stream is still open.
pub(crate) fn http_status(response: &HeaderMap) -> Option<StatusCode> {
    let code = response.get(STATUS)?.to_str().ok()?.parse::<i32>().ok()?;
    let status = CODES.iter().find(|(known, _)| *known == code).and_then(|(_, statuses)| statuses.first());
    Some(status.and_then(|&status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
}

/// Whether the headers belong to a gRPC request or response.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    // gRPC-Web is a different protocol.
    value.strip_prefix(MEDIA_TYPE.as_bytes()).is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers_of(status: StatusCode) -> HeaderMap {
        let response = to_grpc_response(status.into_response());
        assert_eq!(response.status(), StatusCode::OK, "{status}");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/grpc");
        response.headers().clone()
    }

    #[test]
    fn grpc_request_gets_a_grpc_response() {
        for (status, code) in [(404, "12"), (405, "12"), (503, "14"), (500, "13")] {
            let headers = headers_of(StatusCode::from_u16(status).unwrap());
            assert_eq!(headers[STATUS], code, "{status}");
            assert_eq!(headers.contains_key(header::RETRY_AFTER), code == "14");
        }
        let response =
            to_grpc_response(([("content-type", "application/grpc+proto"), ("grpc-status", "5")], "").into_response());
        assert_eq!(response.headers()[STATUS], "5");
    }

    #[test]
    fn grpc_is_detected_by_media_type() {
        let of = |value: &'static str| HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))]);
        assert!(
            ["application/grpc", "application/grpc+proto", "application/grpc;a=b"]
                .iter()
                .all(|value| is_grpc(&of(value)))
        );
        assert!(["application/json", "application/grpc-web", ""].iter().all(|value| !is_grpc(&of(value))));
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn grpc_status_maps_to_an_http_status() {
        assert_eq!(http_status(&headers_of(StatusCode::NOT_FOUND)), Some(StatusCode::NOT_IMPLEMENTED));
        assert_eq!(http_status(&headers_of(StatusCode::SERVICE_UNAVAILABLE)), Some(StatusCode::SERVICE_UNAVAILABLE));
        let forbidden = HeaderMap::from_iter([(STATUS, HeaderValue::from(7))]);
        assert_eq!(http_status(&forbidden), Some(StatusCode::FORBIDDEN));
        assert_eq!(http_status(&HeaderMap::new()), None);
        for status in 400..600 {
            let status = StatusCode::from_u16(status).unwrap();
            let header = HeaderMap::from_iter([(STATUS, HeaderValue::from(code_for_http(status)))]);
            let back = http_status(&header).unwrap();
            assert_eq!(code_for_http(back), code_for_http(status), "{status} is {back} in the log");
        }
        assert_eq!(
            (code_for_http(StatusCode::PAYLOAD_TOO_LARGE), code_for_http(StatusCode::TOO_MANY_REQUESTS)),
            (8, 8)
        );
    }
}
