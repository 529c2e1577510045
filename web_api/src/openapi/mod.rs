//! OpenAPI document of the public port: `openapi/openapi.yaml`, completed at run time with models and examples.

mod examples;

use std::sync::LazyLock;

use contract::ModelDescription;
use serde_json::{Map, Value, json};

/// The static document, with a versioned copy of each path below [`MODEL_PATH`].
static TEMPLATE: LazyLock<Value> = LazyLock::new(|| {
    let json = include_str!(concat!(env!("OUT_DIR"), "/openapi.json"));
    let mut document: Value = serde_json::from_str(json).expect("build.rs writes valid JSON");
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    if let Some(paths) = document["paths"].as_object_mut() {
        let versioned: Vec<_> = paths.iter().filter_map(|(path, item)| with_version(path, item)).collect();
        paths.extend(versioned);
    }
    document
});

/// Path of a model, below which every path also exists with a version.
const MODEL_PATH: &str = "/v2/models/{model}";

/// Builds the document with the names, versions and examples of `models`. `single`: the document is about one model, which is its title.
pub fn describe(models: &[&ModelDescription], single: bool) -> Value {
    let mut document = TEMPLATE.clone();
    let parameters = &mut document["components"]["parameters"];
    for name in ["Model", "JobModel"] {
        restrict_to(&mut parameters[name]["schema"], models.iter().map(|model| model.name.as_str()));
    }
    restrict_to(&mut parameters["Version"]["schema"], models.iter().map(|model| model.version.as_str()));
    let bodies = &mut document["components"]["requestBodies"];
    let loaded = || models.iter().filter(|model| !model.inputs.is_empty());
    set_examples(&mut bodies["InferenceRequest"], loaded().flat_map(|model| examples::requests(model)).collect());
    set_examples(&mut bodies["ImageArray"], loaded().filter_map(|model| examples::image_array(model)).collect());
    let result = &mut document["components"]["responses"]["Prediction"];
    set_examples(result, loaded().filter_map(|model| examples::result(model)).collect());
    if let (true, Some(model)) = (single, models.first()) {
        let notice = model.notice.as_deref().unwrap_or_default();
        document["info"]["title"] = format!("MLServe: {}", model.title).into();
        document["info"]["description"] = format!("{}\n\n{notice}", model.description).into();
    }
    document
}

fn with_version(path: &str, item: &Value) -> Option<(String, Value)> {
    let rest = path.strip_prefix(MODEL_PATH)?;
    let mut item = item.clone();
    item["parameters"].as_array_mut()?.push(json!({ "$ref": "#/components/parameters/Version" }));
    for operation in item.as_object_mut()?.values_mut() {
        if let Some(Value::String(id)) = operation.get_mut("operationId") {
            id.push_str("OfVersion");
        }
    }
    Some((format!("{MODEL_PATH}/versions/{{version}}{rest}"), item))
}

/// Restricts a parameter to `names`. An empty list would allow no value, so without models any name is allowed.
fn restrict_to<'a>(schema: &mut Value, names: impl Iterator<Item = &'a str>) {
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
