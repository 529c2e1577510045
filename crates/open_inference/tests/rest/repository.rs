use serde_json::json;

use crate::support::TestService;

#[tokio::test]
async fn the_index_lists_all_or_ready_versions() {
    let service = TestService::new();
    let echo = json!({"name": "echo", "version": "1", "state": "READY", "reason": ""});
    let broken =
        json!({"name": "broken", "version": "1", "state": "UNAVAILABLE", "reason": "model.onnx is not a graph"});
    for body in ["", "{}", r#"{"ready": false}"#, r#"{"ready": null}"#] {
        assert_eq!(service.post("/v2/repository/index", body).await.json(), json!([echo, broken]));
    }
    assert_eq!(service.post("/v2/repository/index", r#"{"ready": true}"#).await.json(), json!([echo]));
    assert_eq!(service.post("/v2/repository/index", "[").await.error().0, 400);
}

#[tokio::test]
async fn models_are_loaded_and_unloaded() {
    let service = TestService::new();
    for (path, body) in [("echo/load", ""), ("echo/unload", r#"{"parameters": {"unload_dependents": true}}"#)] {
        let response = service.post(&format!("/v2/repository/models/{path}"), body).await;
        assert_eq!((response.status.as_u16(), response.text().as_str()), (200, ""));
    }
    assert_eq!(*service.fake.repository_calls.lock().unwrap(), ["load echo", "unload echo"]);
}

#[tokio::test]
async fn a_failed_load_has_a_reason() {
    let service = TestService::new();
    for (model, body, status, message) in [
        ("broken", "", 422, "model.onnx is not a graph"),
        ("none", "", 404, "there is no model \"none\""),
        (
            "echo",
            r#"{"parameters": {"config": "{}"}}"#,
            501,
            "a load with \"config\" is not supported: put it into the model's folder",
        ),
        (
            "echo",
            r#"{"parameters": {"file:1/model.onnx": "AAAA"}}"#,
            501,
            "a load with \"file:1/model.onnx\" is not supported: put it into the model's folder",
        ),
    ] {
        let response = service.post(&format!("/v2/repository/models/{model}/load"), body).await;
        assert_eq!(response.error(), (status, message.to_owned()));
    }
}
