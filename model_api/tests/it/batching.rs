//! Batching and caching in the description of a model.

use contract::ModelDescription;
use open_inference::{Batching, NotCached, RowDependence};
use serde_json::json;

use crate::support::fake::Fake;
use crate::support::folder::Folder;
use crate::support::router::Service;

async fn describe(fake: &Fake, settings: &str) -> ModelDescription {
    let folder = Folder::new().with("m/model.onnx", "").with("m/model-settings.json", settings);
    Service::new(folder, fake).warm().await.models.list().remove(0)
}

fn batching(model: &ModelDescription) -> (RowDependence, bool) {
    let Batching { rows, enabled, .. } = model.batching.clone().unwrap();
    (rows, enabled)
}

#[tokio::test]
async fn the_settings_override_batching_and_row_caching() {
    use RowDependence::{Dependent, IndependentByProbe, IndependentBySettings};
    for (settings, rows, enabled, by_rows) in [
        ("{}", IndependentByProbe, true, false),
        (r#"{"parameters": {"independent_rows": true}}"#, IndependentBySettings, true, true),
        (r#"{"parameters": {"independent_rows": false}}"#, Dependent, false, false),
        (r#"{"batching": "off", "parameters": {"independent_rows": true}}"#, IndependentBySettings, false, false),
    ] {
        let model = describe(&Fake::default(), settings).await;
        assert_eq!((batching(&model), model.independent_rows), ((rows, enabled), by_rows), "{settings}");
    }
    let one_row = describe(&Fake::returning_one_row(), "{}").await;
    assert_eq!(batching(&one_row), (Dependent, false));
}

#[tokio::test]
async fn a_nondeterministic_model_is_cached_only_with_cache_true() {
    for (settings, random, steady) in [
        ("{}", Some(NotCached::Random), None),
        (r#"{"cache": true}"#, None, None),
        (r#"{"cache": false}"#, Some(NotCached::Settings), Some(NotCached::Settings)),
    ] {
        assert_eq!(describe(&Fake::nondeterministic(), settings).await.not_cached, random, "{settings}");
        assert_eq!(describe(&Fake::default(), settings).await.not_cached, steady, "{settings}");
    }
}

#[tokio::test]
async fn a_pipeline_with_an_uncached_step_is_not_cached() {
    let pipeline = json!({"implementation": "pipeline", "steps": [{"model": "m", "inputs": {"x": "x"}}]}).to_string();
    let folder = Folder::new().with("m/model.onnx", "").with("p/model-settings.json", pipeline);
    let service =
        Service::new(folder.with("m/model-settings.json", r#"{"cache": false}"#), &Fake::default()).warm().await;
    let models = service.models.list();
    let not_cached: Vec<_> = models.iter().map(|model| (&*model.name, model.not_cached)).collect();
    assert_eq!(not_cached, [("m", Some(NotCached::Settings)), ("p", Some(NotCached::Settings))]);
}

#[tokio::test]
async fn metadata_and_index_give_the_reasons() {
    let folder = Folder::new().with("m/model.onnx", "").with("m/model-settings.json", r#"{"cache": false}"#);
    let service = Service::new(folder, &Fake::default()).warm().await;
    let parameters = service.get("/v2/models/m").await.json()["parameters"].clone();
    let batching = &parameters["batching"];
    assert_eq!((&batching["enabled"], &batching["rows"]), (&json!(true), &json!("independent_by_probe")));
    let reason = batching["reason"].as_str().unwrap();
    assert!(reason.contains("; the probe found no difference in ") && reason.ends_with(" batches"), "{reason}");
    assert_eq!(parameters["cache"], json!({"enabled": false, "reason": "settings"}));
    let index = service.post("/v2/repository/index", "application/json", "").await.json();
    assert_eq!(index[0]["batching"], *batching);
}
