use contract::ModelDescription;
use http::{HeaderValue, StatusCode, header};
use open_inference::{Datatype, Tensor};
use serde_json::{Value, json};
use web_api::settings::AppType;

use crate::fake_model_api::{cutter, model, pipeline};
use crate::protocol::{call_model, post};
use crate::stack::{Answer, Stack, form_request, get_request, image_request};

const INFER: &str = "/v2/models/digits/infer";

/// Models of the tests: the steps of the pipeline `digits` are `cut` and `mnist`.
fn models() -> Vec<ModelDescription> {
    let (cut, mnist) = (cutter(), model("mnist"));
    vec![cut.clone(), pipeline("digits", "settings", &[&cut, &mnist]), mnist]
}

async fn start() -> Stack {
    Stack::serving(models(), |settings| settings.app_type = AppType::Ui).await
}

/// Request with one image, for which `cut` returns `count` crops.
fn digits(count: u8) -> Value {
    let data = [f32::from(count), 1., 2., 3.];
    json!({"inputs": [{"name": "picture", "shape": [1, 2, 2, 1], "datatype": "FP32", "data": data}]})
}

fn crops(numbers: &[f32]) -> Value {
    let data: Vec<_> = numbers.iter().map(|number| [*number, 0., 0., 0.]).collect();
    let shape = [data.len(), 2, 2, 1];
    json!({"inputs": [{"name": "image", "shape": shape, "datatype": "FP32", "data": data.as_flattened()}]})
}

async fn cache_status(stack: &Stack, path: &str, body: &Value) -> String {
    let answer = stack.send(post(path, body)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.header("cache-status").to_owned()
}

fn digest(stack: &Stack) -> String {
    stack.model_api.models.lock().unwrap()[1].digest.clone()
}

#[tokio::test]
async fn a_step_may_return_another_number_of_rows_than_its_input_has() {
    let stack = start().await;
    let answer = stack.send(post(INFER, &digits(3))).await;
    assert_eq!(answer.header("cache-status"), "mlserve; fwd=miss; stored", "{}", answer.text());
    let body = answer.json();
    assert_eq!((&body["model_name"], &body["model_version"]), (&json!("digits"), &json!("1")));
    let outputs = body["outputs"].as_array().unwrap();
    assert_eq!((&outputs[0]["name"], &outputs[0]["shape"]), (&json!("classes"), &json!([3, 3])));
    assert_eq!((&outputs[1]["name"], &outputs[1]["shape"]), (&json!("crops"), &json!([3, 2, 2, 1])));
    assert_eq!(body["parameters"]["model_digest"], digest(&stack));
    assert_eq!((stack.runs(), stack.rows()), (2, 4), "one image, and then a batch of three digits");
}

#[tokio::test]
async fn a_pipeline_is_cached_as_a_whole_and_by_step() {
    let stack = start().await;
    assert_eq!(cache_status(&stack, INFER, &digits(3)).await, "mlserve; fwd=miss; stored");
    assert_eq!(cache_status(&stack, INFER, &digits(3)).await, "mlserve; hit");
    assert_eq!(stack.runs(), 2);
    // Steps and direct requests to their models share cache entries.
    assert_eq!(cache_status(&stack, "/v2/models/mnist/infer", &crops(&[1.])).await, "mlserve; hit");
    assert_eq!(cache_status(&stack, "/v2/models/mnist/infer", &crops(&[3., 4.])).await, "mlserve; fwd=miss; stored");
    assert_eq!((stack.runs(), stack.rows()), (3, 6));
    assert_eq!(cache_status(&stack, INFER, &digits(5)).await, "mlserve; fwd=miss; stored");
    assert_eq!((stack.runs(), stack.rows()), (4, 7), "only the image: each of its five digits was cached");
    let metrics = stack.metrics();
    assert!(metrics.contains("inferences_total{model=\"cut\"} 2\n"), "{metrics}");
    assert!(!metrics.contains("inferences_total{model=\"digits\"}"), "only its steps run");
    let stats = stack.send(get_request("/v2/models/digits/stats")).await.json();
    assert_eq!(stats["model_stats"][0]["inference_stats"]["cache_hit"]["count"], 1);
}

#[tokio::test]
async fn an_image_has_the_same_cache_key_on_every_route() {
    let stack = start().await;
    let first = stack.send(image_request("/predict/digits", "four")).await;
    assert_eq!((first.status, first.json()["cls"].clone()), (StatusCode::OK, json!(1)), "{}", first.text());
    assert_eq!(
        first.json()["rows"],
        json!(vec![json!({"cls": 1, "label": "one", "value": 0.75}); 4]),
        "the class of each crop"
    );
    let element = json!({"inputs": [{"name": "picture", "shape": [1], "datatype": "BYTES", "data": ["Zm91cg=="]}]});
    let mut page = form_request("/predict/digits", &[("image", Some("4.png"), "four")]);
    page.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("text/html"));
    for (way, request) in [
        ("an element of a tensor", post(INFER, &element)),
        ("the whole body", image_request(INFER, "four")),
        ("the page's form", page),
    ] {
        let answer = stack.send(request).await;
        assert_eq!((answer.status, answer.header("cache-status")), (StatusCode::OK, "mlserve; hit"), "{way}");
        assert!(way != "the page's form" || answer.text().contains("one one one one"), "{}", answer.text());
    }
    let call = call_model(&stack, "digits", Tensor::from_strings("picture", vec![1], ["four"]), "").await;
    assert_eq!(call.metadata().get("cache-status").unwrap(), "mlserve; hit");
    assert_eq!(stack.runs(), 2);
    // The first step gets the file itself, so it has the key of a direct request to its model.
    assert_eq!(stack.send(image_request("/v2/models/cut/infer", "four")).await.header("cache-status"), "mlserve; hit");
}

#[tokio::test]
async fn a_step_without_rows_does_not_run() {
    let stack = start().await;
    let answer = stack.send(post(INFER, &digits(0))).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.json()["outputs"][0]["shape"], json!([0, 3]));
    assert_eq!(stack.runs(), 1);
}

#[tokio::test]
async fn identical_concurrent_requests_run_each_step_once() {
    let stack = start().await;
    let infer = || stack.send(image_request(INFER, "slow"));
    let (one, other, third) = tokio::join!(infer(), infer(), infer());
    let statuses: Vec<_> =
        [one, other, third].iter().map(|answer: &Answer| answer.header("cache-status").to_owned()).collect();
    assert_eq!(statuses.iter().filter(|status| *status == "mlserve; fwd=miss; collapsed").count(), 2, "{statuses:?}");
    assert_eq!(stack.runs(), 2);
}

#[tokio::test]
async fn cache_directives_apply_to_the_steps() {
    let stack = start().await;
    let infer_with = async |directive: &'static str| {
        let mut request = post(INFER, &digits(2));
        request.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(directive));
        let answer = stack.send(request).await;
        (answer.status.as_u16(), answer.header("cache-status").to_owned())
    };
    assert_eq!(infer_with("only-if-cached").await.0, 504);
    assert_eq!(infer_with("no-store").await, (200, "mlserve; fwd=request".to_owned()));
    assert_eq!(cache_status(&stack, "/v2/models/mnist/infer", &crops(&[0.])).await, "mlserve; fwd=miss; stored");
    assert_eq!(infer_with("no-cache").await, (200, "mlserve; fwd=request; stored".to_owned()));
    assert_eq!(stack.runs(), 5);
    assert_eq!(infer_with("only-if-cached").await, (200, "mlserve; hit".to_owned()));
}

#[tokio::test]
async fn a_changed_step_runs_again_and_the_steps_before_it_are_cached() {
    let stack = start().await;
    cache_status(&stack, INFER, &digits(2)).await;
    let before = digest(&stack);
    stack
        .change(|models| {
            "sha256:new".clone_into(&mut models[2].digest);
            models[1] = pipeline("digits", "settings", &[&models[0], &models[2]]);
        })
        .await;
    assert_ne!(digest(&stack), before);
    assert_eq!(cache_status(&stack, INFER, &digits(2)).await, "mlserve; fwd=miss; stored");
    assert_eq!(stack.runs(), 3);
}

#[tokio::test]
async fn a_result_is_stored_under_the_digests_of_the_models_that_computed_it() {
    let stack = start().await;
    // model_api has loaded another mnist, and the catalog of web_api is older.
    let pipeline = {
        let mut models = stack.model_api.models.lock().unwrap();
        "sha256:new".clone_into(&mut models[2].digest);
        pipeline("digits", "settings", &[&models[0], &models[2]])
    };
    let answer = stack.send(post(INFER, &digits(2))).await;
    assert_eq!(answer.json()["parameters"]["model_digest"], pipeline.digest);
    stack.change(|models| models[1] = pipeline).await;
    assert_eq!(cache_status(&stack, INFER, &digits(2)).await, "mlserve; hit");
}

#[tokio::test]
async fn an_error_of_a_step_contains_its_name() {
    let stack = start().await;
    let broken = stack.send(image_request(INFER, "text")).await;
    assert_eq!(broken.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(broken.json()["error"], "step \"find\": element 0 of image is not an image we read");
    stack.change(|models| drop(models.pop())).await;
    let missing = stack.send(post(INFER, &digits(2))).await;
    assert_eq!(missing.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(missing.json()["error"], "step \"read\": mnist is not available: it is not loaded.");
    assert!(missing.headers.contains_key(header::RETRY_AFTER));
    let problem = stack.send(image_request("/predict/digits", "text")).await;
    assert_eq!(problem.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(problem.json()["detail"].as_str().unwrap().starts_with("step \"find\": "), "{}", problem.text());
}

#[tokio::test]
async fn a_pipeline_may_be_a_step_of_another() {
    let mut models = models();
    let mut twice = pipeline("twice", "others", &[&cutter(), &models[2]]);
    let steps = json!([
        { "name": "all", "model": "digits", "inputs": [{ "name": "picture", "from": "picture" }] },
        { "name": "again", "model": "mnist", "inputs": [{ "name": "image", "from": "all.crops" }] },
    ]);
    let outputs = json!([{ "name": "classes", "from": "again.probabilities" }]);
    let made_of = json!({ "settings_digest": "others", "steps": steps, "outputs": outputs });
    twice.pipeline = Some(serde_json::from_value(made_of).unwrap());
    twice.outputs.truncate(1);
    models.push(twice);
    let stack = Stack::serving(models, |_| {}).await;
    let answer = stack.send(post("/v2/models/twice/infer", &digits(3))).await;
    assert_eq!(answer.json()["outputs"][0]["shape"], json!([3, 3]), "{}", answer.text());
    assert_eq!((stack.runs(), stack.rows()), (2, 4), "the step `again` was cached");
}

#[tokio::test]
async fn several_steps_may_have_the_same_image_as_input() {
    let mut models = models();
    let mut both = pipeline("both", "both", &[&models[0], &models[2]]);
    both.inputs[0].datatype = Datatype::Bytes;
    both.inputs[0].shape = vec![-1];
    let made_of = json!({
        "settings_digest": "both",
        "steps": [
            { "name": "one", "model": "cut", "inputs": [{ "name": "image", "from": "picture" }] },
            { "name": "other", "model": "mnist", "inputs": [{ "name": "image", "from": "picture" }] },
        ],
        "outputs": [{ "name": "classes", "from": "other.probabilities" }, { "name": "crops", "from": "one.crops" }],
    });
    both.pipeline = Some(serde_json::from_value(made_of).unwrap());
    models.push(both);
    let stack = Stack::serving(models, |_| {}).await;
    assert_eq!(stack.send(image_request("/predict/mnist", "four")).await.status, StatusCode::OK);
    let answer = stack.send(image_request("/predict/both", "four")).await;
    assert_eq!((answer.status, answer.json()["label"].clone()), (StatusCode::OK, json!("one")), "{}", answer.text());
    assert_eq!(stack.runs(), 2, "the result of mnist was cached");
    let whole = stack.send(image_request("/v2/models/both/infer", "four")).await;
    assert_eq!(whole.header("cache-status"), "mlserve; hit");
}

#[tokio::test]
async fn a_pipeline_is_listed_like_a_model() {
    let stack = start().await;
    let models = stack.send(get_request("/v2/models")).await.json();
    assert!(models.to_string().contains("\"digits\""), "{models}");
    let metadata = stack.send(get_request("/v2/models/digits")).await.json();
    assert_eq!(metadata["inputs"][0]["name"], "picture");
    let index = stack.send(post("/v2/repository/index", &json!({}))).await.json();
    assert!(index.to_string().contains("\"digits\""), "{index}");
    let openapi = stack.send(get_request("/openapi.json?model=digits")).await.json();
    let examples =
        &openapi["components"]["requestBodies"]["InferenceRequest"]["content"]["application/json"]["examples"];
    assert_eq!(examples["digits-1-picture"]["value"]["inputs"][0]["name"], "picture");
    let page = stack.send(get_request("/?model=digits")).await.text();
    assert!(page.contains("Title of digits") && page.contains("Steps: find (cut), read (mnist)"), "{page}");
}
