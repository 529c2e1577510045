use axum::body::Body;
use http::{Method, StatusCode};
use serde_json::json;

use crate::support::TestService;

#[tokio::test]
async fn server_metadata_and_health_are_reported() {
    let service = TestService::new();
    for path in ["/v2", "/v2/"] {
        let server = service.get(path).await.json();
        assert_eq!(server["name"], "mlserve");
        assert!(server["extensions"].as_array().unwrap().contains(&json!("binary_tensor_data")));
    }
    assert_eq!(service.get("/v2/health/live").await.json(), json!({"live": true}));
    assert_eq!(service.get("/v2/health/ready").await.json(), json!({"live": true, "ready": true}));
    service.post("/v2/repository/models/echo/unload", "").await;
    let ready = service.get("/v2/health/ready").await;
    assert_eq!(
        (ready.status, ready.text().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, r#"{"live":true,"ready":false}"#)
    );
}

#[tokio::test]
async fn model_metadata_is_reported_with_and_without_a_version() {
    let service = TestService::new();
    let model = service.get("/v2/models/echo").await.json();
    let expected = json!({
        "name": "echo", "versions": ["1", "2"], "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
        "parameters": {"version": "2", "max_batch_size": 0, "cache": {"enabled": true}},
    });
    assert_eq!(model, expected);
    assert_eq!(service.get("/v2/models/echo/versions/1").await.json()["parameters"]["version"], "1");
    let names = service.get("/v2/models").await.json();
    assert!(names["models"].as_array().unwrap().contains(&json!("echo")));
    let image = service.get("/v2/models/image").await.json();
    assert_eq!(image["inputs"][0]["parameters"], json!({"content_type": "image"}));
    assert_eq!(image["outputs"][0]["parameters"]["labels"], json!(["cat", "dog", "owl"]));
}

#[tokio::test]
async fn model_readiness_is_reported() {
    let service = TestService::new();
    for path in ["/v2/models/echo/ready", "/v2/models/echo/versions/1/ready"] {
        assert_eq!(service.get(path).await.json(), json!({"name": "echo", "ready": true}));
    }
    let loading = service.get("/v2/models/loading/ready").await;
    assert_eq!(
        (loading.status, loading.text().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, r#"{"name":"loading","ready":false}"#)
    );
    assert_eq!(service.get("/v2/models/none/ready").await.error(), (404, "there is no model \"none\"".to_owned()));
    let unknown = service.get("/v2/models/echo/versions/3").await.error();
    assert_eq!(unknown, (404, "there is no version \"3\" of model \"echo\"".to_owned()));
    let loading = service.get("/v2/models/loading").await;
    assert_eq!(loading.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn configuration_and_statistics_are_in_tritons_format() {
    let service = TestService::new();
    for path in ["/v2/models/echo/config", "/v2/models/echo/versions/2/config"] {
        assert_eq!(service.get(path).await.json()["input"][0]["data_type"], "TYPE_FP32");
    }
    let before = service.get("/v2/models/echo/stats").await.json();
    assert_eq!(before["model_stats"].as_array().unwrap().len(), 2, "versions without requests have zeros");
    assert_eq!(before["model_stats"][1]["inference_stats"]["success"], json!({"count": 0, "ns": 0}));
    let body = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}]});
    service.infer("echo", &body).await.json();
    let after = service.get("/v2/models/echo/versions/2/stats").await.json();
    assert_eq!(after["model_stats"][0]["inference_count"], 2);
    assert_eq!(after["model_stats"][0]["execution_count"], 1);
    assert_eq!(after["model_stats"][0]["inference_stats"]["compute_infer"], json!({"count": 1, "ns": 2_000_000}));
    let all = service.get("/v2/models/stats").await.json();
    assert!(all["model_stats"].as_array().unwrap().len() > 2);
    assert_eq!(service.get("/v2/models/none/stats").await.error().0, 404);
}

#[tokio::test]
async fn unknown_routes_get_the_protocols_error() {
    let service = TestService::new();
    let (status, message) = service.get("/v2/nothing/here").await.error();
    assert_eq!((status, message.as_str()), (404, "there is no route \"/v2/nothing/here\""));
    assert_eq!(service.get("/v2/models/echo/nothing").await.error().0, 404);
    let wrong = service.send(Method::DELETE, "/v2/models/echo", &[], Body::empty()).await;
    assert_eq!(wrong.error(), (405, "method \"DELETE\" is not allowed for this route".to_owned()));
    assert_eq!(wrong.header("allow"), Some("GET,HEAD"));
    assert_eq!(service.get("/v2/models/echo/infer").await.error().0, 405);
}

#[tokio::test]
async fn path_traversal_in_model_names_is_rejected() {
    let service = TestService::new();
    for name in ["..%2f..%2fetc", "%2Fetc%2Fpasswd", "a%00b", "%2e%2e", &"n".repeat(300), "..%5cetc"] {
        for path in [format!("/v2/models/{name}"), format!("/v2/models/echo/versions/{name}")] {
            let (status, message) = service.get(&path).await.error();
            assert_eq!(status, 404, "{path}: {message}");
        }
        let path = format!("/v2/repository/models/{name}/load");
        assert_eq!(service.post(&path, "").await.error().0, 404, "{path}");
    }
    assert_eq!(service.get("/v2/models/%ff").await.error(), (400, "the path is not UTF-8".to_owned()));
}

#[tokio::test]
async fn the_routes_can_be_merged_with_others() {
    use axum::Router;
    use axum::routing::get;
    use tower::ServiceExt;

    let app = Router::new()
        .route("/", get(|| async { "page" }))
        .route("/v2/docs", get(|| async { "docs" }))
        .fallback(|| async { (StatusCode::NOT_FOUND, "the app's own") })
        .merge(TestService::new().router);
    let text = async |path: &str| {
        let request = http::Request::get(path).header("accept-encoding", "gzip").body(Body::empty()).unwrap();
        let body = app.clone().oneshot(request).await.unwrap().into_body();
        String::from_utf8(axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap()
    };
    assert_eq!(text("/").await, "page");
    assert_eq!(text("/v2/docs").await, "docs");
    assert_eq!(text("/nothing").await, "the app's own");
    assert_eq!(text("/v2/nothing").await, r#"{"error":"there is no route \"/v2/nothing\""}"#);
    assert_eq!(text("/v2/health/live").await, r#"{"live":true}"#);
}
