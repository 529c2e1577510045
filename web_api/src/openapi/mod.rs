//! The description of the public port: `openapi/openapi.yaml`, and what is known only while running.

mod examples;

use std::sync::LazyLock;

use contract::ModelDescription;
use serde_json::{Map, Value, json};

/// As written, with each path below `MODEL` once more for a version.
static WRITTEN: LazyLock<Value> = LazyLock::new(|| {
    let written = include_str!(concat!(env!("OUT_DIR"), "/openapi.json"));
    let mut document: Value = serde_json::from_str(written).expect("build.rs has written it");
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    if let Some(paths) = document["paths"].as_object_mut() {
        let versioned: Vec<_> = paths.iter().filter_map(|(path, item)| with_version(path, item)).collect();
        paths.extend(versioned);
    }
    document
});

/// What has versions.
const MODEL: &str = "/v2/models/{model}";

/// The description with these models' names, versions and examples. A `single` one was chosen: the page is about it.
pub fn describe(models: &[&ModelDescription], single: bool) -> Value {
    let mut document = WRITTEN.clone();
    let parameters = &mut document["components"]["parameters"];
    for name in ["Model", "JobModel"] {
        allow_only(&mut parameters[name]["schema"], models.iter().map(|model| model.name.as_str()));
    }
    allow_only(&mut parameters["Version"]["schema"], models.iter().map(|model| model.version.as_str()));
    let bodies = &mut document["components"]["requestBodies"];
    let known = || models.iter().filter(|model| !model.inputs.is_empty());
    set_examples(&mut bodies["InferenceRequest"], known().flat_map(|model| examples::requests(model)).collect());
    set_examples(&mut bodies["ImageArray"], known().filter_map(|model| examples::image_array(model)).collect());
    let result = &mut document["components"]["responses"]["Prediction"];
    set_examples(result, known().filter_map(|model| examples::result(model)).collect());
    if let (true, Some(model)) = (single, models.first()) {
        let notice = model.notice.as_deref().unwrap_or_default();
        document["info"]["title"] = format!("MLServe: {}", model.title).into();
        document["info"]["description"] = format!("{}\n\n{notice}", model.description).into();
    }
    document
}

fn with_version(path: &str, item: &Value) -> Option<(String, Value)> {
    let rest = path.strip_prefix(MODEL)?;
    let mut item = item.clone();
    item["parameters"].as_array_mut()?.push(json!({ "$ref": "#/components/parameters/Version" }));
    for operation in item.as_object_mut()?.values_mut() {
        if let Some(Value::String(id)) = operation.get_mut("operationId") {
            id.push_str("OfVersion");
        }
    }
    Some((format!("{MODEL}/versions/{{version}}{rest}"), item))
}

/// A list of nothing would allow nothing: without models any name is let through, and answered with 404.
fn allow_only<'a>(schema: &mut Value, names: impl Iterator<Item = &'a str>) {
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names.dedup();
    if !names.is_empty() {
        schema["enum"] = names.into();
    }
}

fn set_examples(body: &mut Value, examples: Map<String, Value>) {
    if !examples.is_empty() {
        body["content"]["application/json"]["examples"] = examples.into();
    }
}
