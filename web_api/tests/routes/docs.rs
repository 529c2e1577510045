use axum::body::Body;
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::Value;
use web_api::settings::AppType;

use crate::stack::{Stack, get_request};

/// A well-formed ID of a job that does not exist.
const NO_JOB: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn the_page_loads_only_files_of_this_server() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let page = stack.send(get_request("/docs")).await;
    assert_eq!((page.status, page.header("content-type")), (StatusCode::OK, "text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").starts_with("default-src 'none'; script-src 'self'"));
    let html = page.text();
    assert!(!html.contains("//"), "no URL of another host");
    let addresses: Vec<_> = html.split('"').filter(|part| part.starts_with('/')).collect();
    assert!(addresses.iter().filter(|address| address.starts_with("/docs/")).count() >= 4, "{addresses:?}");
    for address in addresses {
        assert_eq!(stack.send(get_request(address)).await.status, StatusCode::OK, "{address}");
    }
    assert_eq!(stack.send(get_request("/docs/..%2f..%2fbuild.rs")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_viewer_is_compressed_and_revalidated() {
    let stack = Stack::start(AppType::Ui, &["mnist"]).await;
    let plain = stack.send(get_request("/docs/swagger-ui-bundle.js")).await;
    assert!(plain.text().contains("SwaggerUIBundle"));
    let mut request = get_request("/docs/swagger-ui-bundle.js");
    request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("br, gzip"));
    let compressed = stack.send(request).await;
    assert_eq!(compressed.header("content-encoding"), "gzip");
    assert_eq!(compressed.header("vary"), "accept-encoding");
    assert!(compressed.body.len() * 3 < plain.body.len());
    let mut again = get_request("/docs/swagger-ui-bundle.js");
    again.headers_mut().insert(header::IF_NONE_MATCH, compressed.headers["etag"].clone());
    assert_eq!(stack.send(again).await.status, StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn the_document_lists_the_models_and_all_its_references_resolve() {
    let stack = Stack::start(AppType::Ui, &["medical", "mnist"]).await;
    let document = stack.send(get_request("/openapi.json")).await.json();
    assert_eq!(document["openapi"], "3.0.3");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        document["components"]["parameters"]["Model"]["schema"]["enum"],
        serde_json::json!(["medical", "mnist"])
    );
    let references = references(&document);
    assert!(references.len() > 100);
    for reference in references {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
    let infer = &document["paths"]["/v2/models/{model}/versions/{version}/infer"];
    assert_eq!(infer["post"]["operationId"], "inferOfVersion");
    assert_eq!(infer["parameters"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_document_of_one_model_contains_only_that_model() {
    let stack = Stack::start(AppType::Ui, &["medical", "mnist"]).await;
    for (path, to) in [
        ("/v2/docs", "/docs"),
        ("/v2/models/mnist/docs", "/docs?model=mnist"),
        ("/v2/models/mnist/versions/1/docs", "/docs?model=mnist&version=1"),
    ] {
        let answer = stack.send(get_request(path)).await;
        assert_eq!((answer.status, answer.header("location")), (StatusCode::TEMPORARY_REDIRECT, to));
    }
    let document = stack.send(get_request("/openapi.json?model=medical&version=1")).await.json();
    assert_eq!(document["components"]["parameters"]["Model"]["schema"]["enum"], serde_json::json!(["medical"]));
    assert_eq!(document["info"]["title"], "MLServe: Title of medical");
    assert!(document["info"]["description"].as_str().unwrap().contains("Not for clinical use."));
    for path in ["/v2/models/nobody/docs", "/v2/models/mnist/versions/7/docs", "/v2/models/%ff/docs"] {
        let answer = stack.send(get_request(path)).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(answer.json()["error"], "there is no such model or version");
    }
    assert_eq!(stack.send(get_request("/openapi.json?model=nobody")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn every_described_path_exists() {
    let stack = Stack::start(AppType::Ui, &["mnist"]).await;
    let document = stack.send(get_request("/openapi.json")).await.json();
    let mut requests = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let address = path.replace("{model}", "mnist").replace("{version}", "1").replace("{id}", NO_JOB);
            let mut request = get_request(&address);
            *request.method_mut() = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let answer = stack.send(request).await;
            assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            let unrouted = ["No such route", "there is no route"];
            assert!(!unrouted.iter().any(|message| answer.text().contains(message)), "{method} {path}");
            let declared = &item[method]["responses"][answer.status.as_str()];
            assert!(!declared.is_null(), "{method} {path} responds with {}, which is not described", answer.status);
            requests += 1;
        }
    }
    assert!(requests > 37);
}

/// Query, headers and body of a request.
type Parts = (&'static str, &'static [(&'static str, &'static str)], &'static [u8]);

/// Invalid requests.
const INVALID: [Parts; 12] = [
    ("", &[], b""),
    ("", &[], b"text"),
    ("", &[("content-type", "application/json")], b"{"),
    ("", &[("content-type", "application/json")], b"{}"),
    ("", &[("content-type", "application/json")], b"[]"),
    ("", &[("content-type", "multipart/form-data; boundary=x")], b"--x--\r\n"),
    ("", &[("content-type", "image/png")], b"no image"),
    ("", &[("content-type", "application/zip")], b"no archive"),
    ("", &[("content-encoding", "br")], b"packed"),
    ("", &[("accept", "image/png"), ("cache-control", "only-if-cached")], b"{}"),
    ("?limit=0&format=xml", &[], b""),
    ("?limit=x&offset=-1&status=none&model=nobody&version=7", &[], b""),
];

#[tokio::test]
async fn every_error_response_is_described() {
    let stack = Stack::start(AppType::Ui, &["mnist"]).await;
    let document = stack.send(get_request("/openapi.json")).await.json();
    let names = [("mnist", "1"), ("nobody", "1"), ("mnist", "7"), ("%ff", "1"), ("..%2fx", "1")];
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            for ((model, version), invalid) in names.iter().flat_map(|name| INVALID.map(|invalid| (name, invalid))) {
                let (query, headers, body) = invalid;
                let address = path.replace("{model}", model).replace("{version}", version).replace("{id}", NO_JOB);
                let mut request = get_request(&(address.clone() + query)).map(|_| Body::from(body));
                *request.method_mut() = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                for (name, value) in headers {
                    request.headers_mut().insert(*name, value.parse().unwrap());
                }
                let status = stack.send(request).await.status;
                let described = !item[method]["responses"][status.as_str()].is_null();
                assert!(described, "{method} {address} with {invalid:?}: {status} is not described");
                assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{method} {address} with {invalid:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_described_minimum_is_the_accepted_minimum() {
    let stack = Stack::start(AppType::Ui, &["mnist"]).await;
    let document = stack.send(get_request("/openapi.json")).await.json();
    for parameter in ["Offset", "Limit"] {
        let parameter = &document["components"]["parameters"][parameter];
        let (name, minimum) = (parameter["name"].as_str().unwrap(), parameter["schema"]["minimum"].as_i64().unwrap());
        let accepted = stack.send(get_request(&format!("/jobs?{name}={minimum}"))).await;
        assert_eq!(accepted.status, StatusCode::OK, "{name}={minimum}");
        let refused = stack.send(get_request(&format!("/jobs?{name}={}", minimum - 1))).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{name}={}", minimum - 1);
        assert_eq!(refused.header("content-type"), "application/problem+json");
        assert!(refused.json()["detail"].as_str().unwrap().contains(name), "{}", refused.text());
    }
}

fn references(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| match value {
                Value::String(reference) if name == "$ref" => vec![reference.as_str()],
                value => references(value),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}
