//! The shipped models reproduce the results of their training for their sample images.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::support::process::Running;

/// `samples/expected.json`.
#[derive(Deserialize)]
struct Expected {
    tolerance: f64,
    samples: BTreeMap<String, Sample>,
}

#[derive(Deserialize)]
struct Sample {
    label: String,
    probabilities: Vec<f64>,
}

#[tokio::test]
async fn shipped_models_reproduce_the_results_of_their_training() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let shipped = shipped(&models);
    if shipped.is_empty() {
        assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "no model is shipped with samples");
        return eprintln!("skipped: no model is shipped with samples");
    }
    let names = shipped.keys().map(String::as_str).collect::<Vec<_>>().join(",");
    let Some(running) = Running::ready(&models, &[("MODEL_NAME", &names), ("DEVICE", "cpu")]).await else { return };
    let (_, models) = running.get("/models").await.unwrap();
    let labels = |model: &str| {
        let models = models["models"].as_array().unwrap();
        let described = models.iter().find(|described| described["name"] == model).unwrap();
        described["outputs"][0]["parameters"]["labels"].clone()
    };
    for (model, samples) in shipped {
        let expected: Expected = serde_json::from_slice(&fs::read(samples.join("expected.json")).unwrap()).unwrap();
        assert!(!expected.samples.is_empty());
        for (file, sample) in expected.samples {
            let image = fs::read(samples.join(&file)).unwrap();
            let (status, response) = running.post(&format!("/v2/models/{model}/infer"), "image/png", image).await;
            assert_eq!(status, 200, "{model} {file}: {response}");
            let values = response["outputs"][0]["data"].as_array().unwrap();
            let values: Vec<f64> = values.iter().map(|value| value.as_f64().unwrap()).collect();
            let class = (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap();
            assert_eq!(labels(&model)[class], sample.label, "{model} {file}: {values:?}");
            assert_eq!(values.len(), sample.probabilities.len(), "{model} {file}");
            for (found, expected_value) in values.iter().zip(&sample.probabilities) {
                assert!((found - expected_value).abs() <= expected.tolerance, "{model} {file}: {values:?}");
            }
        }
    }
}

/// The models that have samples, and the folders of the samples.
fn shipped(models: &Path) -> BTreeMap<String, PathBuf> {
    let Ok(entries) = fs::read_dir(models) else { return BTreeMap::new() };
    entries
        .filter_map(|entry| {
            let model = entry.ok()?.path();
            let samples = model.join("samples");
            let name = model.file_name()?.to_str()?.to_owned();
            samples.join("expected.json").is_file().then_some((name, samples))
        })
        .collect()
}
