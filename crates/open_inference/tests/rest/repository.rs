use serde_json::json;

use crate::support::Service;

#[tokio::test]
async fn the_index_lists_every_version_or_those_that_are_ready() {
    let service = Service::new();
    let echo = json!({"name": "echo", "version": "1", "state": "READY", "reason": ""});
    let broken = json!({"name": "broken", "version": "1", "state": "UNAVAILABLE", "reason": "model.onnx is no graph"});
    for body in ["", "{}", r#"{"ready": false}"#, r#"{"ready": null}"#] {
        assert_eq!(service.post("/v2/repository/index", body).await.json(), json!([echo, broken]));
    }
    assert_eq!(service.post("/v2/repository/index", r#"{"ready": true}"#).await.json(), json!([echo]));
    assert_eq!(service.post("/v2/repository/index", "[").await.error().0, 400);
}

#[tokio::test]
async fn models_are_loaded_and_unloaded() {
    let service = Service::new();
    for (path, body) in [("echo/load", ""), ("echo/unload", r#"{"parameters": {"unload_dependents": true}}"#)] {
        let answer = service.post(&format!("/v2/repository/models/{path}"), body).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, ""));
    }
    assert_eq!(*service.fake.repository.lock().unwrap(), ["load echo", "unload echo"]);
}

#[tokio::test]
async fn what_cannot_be_loaded_says_why() {
    let service = Service::new();
    for (model, body, status, words) in [
        ("broken", "", 422, "model.onnx is no graph"),
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
        let answer = service.post(&format!("/v2/repository/models/{model}/load"), body).await;
        assert_eq!(answer.error(), (status, words.to_owned()));
    }
}
