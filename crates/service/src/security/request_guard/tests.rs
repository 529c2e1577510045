use std::net::Ipv4Addr;

use axum::body::Body;
use http::{StatusCode, Version, header};

use super::settings::{parse_host_name, parse_list, parse_origin};
use super::*;
use crate::peer::Peer;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn request(method: &str, headers: &[(&str, &str)]) -> Request {
    let request = Request::builder().method(method).uri("/predict").extension(Peer(LOOPBACK));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Body::empty()).unwrap()
}

fn status(guard: &RequestGuard, request: &Request) -> u16 {
    guard.check(request).map_or_else(|rejection| rejection.status.as_u16(), |()| 200)
}

fn status_of_host(guard: &RequestGuard, host: &str) -> u16 {
    status(guard, &request("GET", &[("host", host)]))
}

#[test]
fn unpublished_service_accepts_loopback_names_addresses_and_allowed_hosts() {
    let guard = RequestGuard::public(
        false,
        parse_list("web_api,Models.Example.org:8080", parse_host_name).unwrap(),
        Vec::new(),
    );
    let accepted = "localhost LOCALHOST:5000 a.localhost:1 localhost. 127.0.0.1 127.0.0.1:5000 192.168.1.7:5000 [::1] [::1]:5000 \
        web_api:5000 models.example.org MODELS.example.org:443 models.example.org.";
    for host in accepted.split_whitespace() {
        assert_eq!(status_of_host(&guard, host), 200, "{host}");
    }
    let rejected = "example.org rebound.example:5000 localhost.example notlocalhost 127.0.0.1.example 1.2.3 ::1 [::1].example \
        x.models.example.org :5000";
    for host in rejected.split_whitespace() {
        assert_eq!(status_of_host(&guard, host), 421, "{host}");
    }
    let rejection = guard.check(&request("GET", &[("host", "rebound.example")])).unwrap_err();
    assert!(rejection.detail.contains("\"rebound.example\"") && rejection.detail.contains("ALLOWED_HOSTS"));
    let published = RequestGuard::public(true, Vec::new(), Vec::new());
    assert_eq!(status_of_host(&published, "models.example.org"), 200);
}

#[test]
fn http_1_1_requires_exactly_one_host() {
    for guard in [RequestGuard::default(), RequestGuard::public(true, Vec::new(), Vec::new())] {
        for hosts in
            [&[][..], &[("host", "localhost"), ("host", "localhost")], &[("host", "local host")], &[("host", "a/b")]]
        {
            assert_eq!(status(&guard, &request("GET", hosts)), 400, "{hosts:?}");
        }
        let mut old = request("GET", &[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(status(&guard, &old), 200);
    }
    // HTTP/2 uses `:authority`; the absolute form takes precedence over `Host`.
    let mut call = request("POST", &[]);
    *call.version_mut() = Version::HTTP_2;
    *call.uri_mut() = "http://rebound.example/predict".parse().unwrap();
    assert_eq!(status(&RequestGuard::default(), &call), 421);
    *call.uri_mut() = "http://localhost:5000/predict".parse().unwrap();
    assert_eq!(status(&RequestGuard::default(), &call), 200);
}

#[test]
fn unsafe_requests_of_other_origins_are_rejected() {
    let guard = RequestGuard::public(false, Vec::new(), vec![HeaderValue::from_static("https://app.example")]);
    let cases = [
        (&[][..], 200),
        (&[("sec-fetch-site", "same-origin"), ("origin", "http://localhost:5000")], 200),
        (&[("sec-fetch-site", "none")], 200),
        (&[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")], 403),
        (&[("sec-fetch-site", "same-site"), ("origin", "http://localhost:3000")], 403),
        (&[("sec-fetch-site", "cross-site")], 403),
        (&[("sec-fetch-site", "cross-site"), ("origin", "https://app.example")], 200),
        (&[("origin", "http://localhost:5000")], 200),
        (&[("origin", "http://localhost:3000")], 403),
        (&[("origin", "https://evil.example")], 403),
        (&[("origin", "null")], 403),
        (&[("origin", "https://app.example")], 200),
        (&[("origin", "https://app.example.evil.example")], 403),
        (&[("origin", "http://app.example")], 403),
    ];
    for (headers, expected) in cases {
        let all = [&[("host", "localhost:5000")], headers].concat();
        for method in ["POST", "PUT", "PATCH", "DELETE", "BREW"] {
            assert_eq!(status(&guard, &request(method, &all)), expected, "{method} {headers:?}");
        }
        for method in ["GET", "HEAD", "OPTIONS"] {
            assert_eq!(status(&guard, &request(method, &all)), 200, "{method} {headers:?}");
        }
    }
    let rejected =
        guard.check(&request("POST", &[("host", "localhost"), ("origin", "https://evil.example")])).unwrap_err();
    assert!(rejected.detail.contains("https://evil.example") && rejected.detail.contains("CORS_ALLOW_ORIGINS"));
}

#[test]
fn private_service_rejects_browsers_and_unknown_names_on_loopback() {
    let loopback = RequestGuard::private(LOOPBACK, Vec::new());
    let network = RequestGuard::private(Ipv4Addr::UNSPECIFIED.into(), Vec::new());
    assert_eq!([&loopback, &network].map(|guard| status_of_host(guard, "model_api:5050")), [421, 200]);
    for guard in [loopback, network] {
        for header in
            [("origin", "http://127.0.0.1"), ("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "navigate")]
        {
            for method in ["GET", "POST"] {
                assert_eq!(
                    status(&guard, &request(method, &[("host", "127.0.0.1"), header])),
                    403,
                    "{method} {header:?}"
                );
            }
        }
        assert_eq!(status(&guard, &request("POST", &[("host", "127.0.0.1")])), 200);
    }
}

#[tokio::test]
async fn rejection_has_the_format_of_its_route() {
    let rejection = || Rejection::unknown_host(&"x".repeat(10_000));
    for (path, media_type) in [("/v2/models/m/infer", "application/json"), ("/predict", "application/problem+json")] {
        let response = rejection().respond(path, false);
        assert_eq!(
            (response.status(), &response.headers()[header::CONTENT_TYPE]),
            (StatusCode::MISDIRECTED_REQUEST, &HeaderValue::from_static(media_type))
        );
        let body = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
        assert!(body.windows(13).any(|bytes| bytes == b"ALLOWED_HOSTS"), "{}", body.escape_ascii());
    }
    let call = Rejection::browser().respond("/inference.GRPCInferenceService/ModelInfer", true);
    assert_eq!((call.status(), &call.headers()["grpc-status"]), (StatusCode::OK, &HeaderValue::from(7)));
    assert!(call.headers()["grpc-message"].to_str().unwrap().contains("web_api"));
}

#[test]
fn error_of_a_list_names_the_invalid_entry() {
    assert_eq!(
        parse_list("https://App.example, http://localhost:3000,", parse_origin).unwrap(),
        ["https://app.example", "http://localhost:3000"]
    );
    for bad in
        ["*", "app.example", "https://app.example/", "https://*.example", "https://app.example:443", "null", "https://"]
    {
        assert!(parse_list(bad, parse_origin).unwrap_err().contains(bad), "{bad}");
    }
    for bad in ["*.example.org", "https://example.org", "a b", ":80"] {
        assert!(parse_list(bad, parse_host_name).unwrap_err().contains(bad), "{bad}");
    }
    assert!("0.0.0.0".parse::<BindAddress>().is_ok_and(|address| !address.0.is_loopback()));
    assert!("[::1]".parse::<BindAddress>().is_ok_and(|address| address.0.is_loopback()));
    assert!("yes".parse::<BindAddress>().is_err());
}
