use std::time::Duration;

use contract::ModelDescription;
use http::{HeaderValue, Request, StatusCode, header};
use open_inference::{Batching, Datatype, NotCached, RowDependence, Tensor};
use serde_json::{Value, json};
use tokio::time::sleep;
use web_api::settings::AppType;

use crate::fake_model_api::{cutter, model, pipeline};
use crate::jobs::{ended, job_of, zip};
use crate::protocol::{call_model, infer_body, post};
use crate::stack::{Stack, form_request, get_request, image_request};

const INFER: &str = "/v2/models/mnist/infer";

fn invalidate(model: &str) -> Request<axum::body::Body> {
    Request::delete(format!("/cache/{model}")).body(axum::body::Body::empty()).unwrap()
}

#[tokio::test]
async fn invalidation_removes_the_results_of_one_model_only() {
    let stack = Stack::start(AppType::Cli, &["leukemia", "mnist"]).await;
    stack.send(image_request("/predict/mnist", "seven")).await;
    stack.send(image_request("/predict/leukemia", "seven")).await;
    assert_eq!(stack.send(invalidate("mnist")).await.json(), json!({"model": "mnist", "forgotten": 1}));
    assert_eq!(stack.send(image_request("/predict/mnist", "seven")).await.json()["cached"], false);
    assert_eq!(stack.send(image_request("/predict/leukemia", "seven")).await.json()["cached"], true);
    assert_eq!(stack.send(invalidate("nonesuch")).await.status, StatusCode::NOT_FOUND);
}

fn not_cached(reason: NotCached) -> ModelDescription {
    ModelDescription { not_cached: Some(reason), ..model("mnist") }
}

async fn serving(reason: NotCached) -> Stack {
    Stack::serving(vec![not_cached(reason)], |settings| settings.app_type = AppType::Ui).await
}

fn two_rows() -> Value {
    infer_body(&[[1., 0., 0., 0.], [2., 0., 0., 0.]])
}

fn with(mut request: Request<axum::body::Body>, name: header::HeaderName, value: &str) -> Request<axum::body::Body> {
    request.headers_mut().insert(name, HeaderValue::try_from(value).unwrap());
    request
}

#[tokio::test]
async fn a_result_that_is_too_large_to_be_stored_is_not_reported_as_stored() {
    // Every result is larger than an eighth of this, which is the maximum of one entry.
    let stack = Stack::serving(vec![model("mnist")], |settings| settings.near_cache_bytes = 1 << 10).await;
    for run in 1..=2 {
        let alone = stack.send(image_request("/predict/mnist", "seven")).await;
        assert_eq!(alone.header("cache-status"), "mlserve; fwd=miss; detail=too-large");
        assert_eq!(alone.json()["cached"], false);
        let batch = stack.send(post(INFER, &two_rows())).await;
        assert_eq!(batch.header("cache-status"), "mlserve; fwd=miss; detail=too-large");
        let anew = stack.send(with(post(INFER, &two_rows()), header::CACHE_CONTROL, "no-cache")).await;
        assert_eq!(anew.header("cache-status"), "mlserve; fwd=request; detail=too-large");
        let row = Tensor::from_f32("image", Datatype::Fp32, vec![1, 2, 2, 1], &[1.; 4]).unwrap();
        let call = call_model(&stack, "mnist", row, "").await;
        assert_eq!(call.metadata().get("cache-status").unwrap(), "mlserve; fwd=miss; detail=too-large");
        assert_eq!(stack.runs(), 4 * run);
    }
}

#[tokio::test]
async fn an_uncached_model_runs_for_every_request_on_every_route() {
    for (reason, status) in [
        (NotCached::Random, "mlserve; fwd=bypass; detail=random"),
        (NotCached::Settings, "mlserve; fwd=bypass; detail=settings"),
    ] {
        let stack = serving(reason).await;
        for run in 1..=2 {
            let image = stack.send(image_request("/predict/mnist", "seven")).await;
            assert_eq!((image.status, image.header("cache-status")), (StatusCode::OK, status));
            assert_eq!((image.header("etag"), image.header("age")), ("", ""), "a later result may be another one");
            assert_eq!(image.json()["cached"], false);
            let page = form_request("/predict/mnist", &[("image", Some("7.png"), "seven")]);
            let page = stack.send(with(page, header::ACCEPT, "text/html")).await;
            assert_eq!((page.status, page.header("cache-status")), (StatusCode::OK, status));
            let batch = stack.send(post(INFER, &two_rows())).await;
            assert_eq!(batch.header("cache-status"), status, "rows are not cached one by one either");
            let row = Tensor::from_strings("image", vec![1], ["seven"]);
            let call = call_model(&stack, "mnist", row, "").await;
            assert_eq!(call.metadata().get("cache-status").unwrap(), status);
            assert!(call.metadata().get("etag").is_none());
            assert_eq!((stack.runs(), stack.rows()), (4 * run, 5 * run));
        }
        let only = with(image_request("/predict/mnist", "seven"), header::CACHE_CONTROL, "only-if-cached");
        assert_eq!(stack.send(only).await.status, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(stack.send(invalidate("mnist")).await.json()["forgotten"], 0);
        let metrics = stack.metrics();
        assert!(metrics.contains("answers_total{model=\"mnist\",outcome=\"bypass\"} 10\n"), "{metrics}");
    }
}

#[tokio::test]
async fn identical_concurrent_requests_to_an_uncached_model_are_not_collapsed() {
    for reason in [NotCached::Random, NotCached::Settings] {
        let model = ModelDescription { independent_rows: false, ..not_cached(reason) };
        let stack = Stack::serving(vec![model], |_| {}).await;
        let predict = || stack.send(image_request("/predict/mnist", "slow"));
        let (one, other, third) = tokio::join!(predict(), predict(), predict());
        assert!([one, other, third].iter().all(|answer| answer.status == StatusCode::OK));
        assert_eq!((stack.runs(), stack.rows()), (3, 3));
    }
}

#[tokio::test]
async fn an_uncached_result_is_never_not_modified() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let etag = stack.send(image_request("/predict/mnist", "seven")).await.header("etag").to_owned();
    let again = || with(image_request("/predict/mnist", "seven"), header::IF_NONE_MATCH, &etag);
    assert_eq!(stack.send(again()).await.status, StatusCode::NOT_MODIFIED);
    stack.change(|models| models[0].not_cached = Some(NotCached::Random)).await;
    let answer = stack.send(again()).await;
    assert_eq!(
        answer.header("cache-status"),
        "mlserve; fwd=bypass; detail=random",
        "the stored result is not looked up"
    );
    assert_eq!((answer.status, stack.runs()), (StatusCode::OK, 2));
}

#[tokio::test]
async fn jobs_of_an_uncached_model_are_not_deduplicated() {
    let stack = serving(NotCached::Random).await;
    let submit = || {
        let archive = zip(&[("a.png", "seven"), ("b.png", "seven")]);
        with(Request::post("/jobs").body(archive.into()).unwrap(), header::CONTENT_TYPE, "application/zip")
    };
    for run in 1..=2 {
        let job = ended(&stack, &job_of(&stack.send(submit()).await)).await;
        assert_eq!((&job["status"], &job["runs"]), (&json!("succeeded"), &json!(2)));
        assert_eq!(stack.rows(), 2 * run);
    }
}

#[tokio::test]
async fn a_pipeline_with_an_uncached_step_is_uncached_but_its_other_steps_are_cached() {
    let (cut, random) = (cutter(), not_cached(NotCached::Random));
    let digits = pipeline("digits", "settings", &[&cut, &random]);
    let stack = Stack::serving(vec![cut, digits, random], |_| {}).await;
    for run in 1..=2 {
        let answer = stack.send(image_request("/v2/models/digits/infer", "four")).await;
        assert_eq!(answer.header("cache-status"), "mlserve; fwd=bypass; detail=random", "{}", answer.text());
        assert_eq!((stack.runs(), stack.rows()), (1 + run, 1 + 4 * run), "the image is cut once");
    }
}

#[tokio::test]
async fn results_that_model_api_reports_as_wrong_are_purged() {
    let stack = Stack::start(AppType::Cli, &["leukemia", "mnist"]).await;
    stack.send(image_request("/predict/mnist", "seven")).await;
    stack.send(image_request("/predict/leukemia", "seven")).await;
    assert_eq!(stack.send(image_request("/predict/mnist", "seven")).await.json()["cached"], true);
    let reason = "output \"y\" differed".to_owned();
    let batching = Batching { enabled: false, rows: RowDependence::Dependent, reason: reason.clone() };
    stack
        .change(|models| {
            let mnist = models.iter_mut().find(|model| model.name == "mnist").unwrap();
            (mnist.wrong_before_ms, mnist.batching) = (Some(1), Some(batching));
        })
        .await;
    // Without the purge, each request would be a hit.
    while stack.send(image_request("/predict/mnist", "seven")).await.json()["cached"] == true {
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(stack.send(image_request("/predict/mnist", "seven")).await.json()["cached"], true, "a new result");
    assert_eq!(stack.send(image_request("/predict/leukemia", "seven")).await.json()["cached"], true);
    let metadata = stack.send(get_request("/v2/models/mnist")).await.json();
    let expected = json!({"enabled": false, "rows": "dependent", "reason": reason});
    assert_eq!(metadata["parameters"]["batching"], expected);
    assert_eq!(metadata["parameters"]["cache"], json!({"enabled": true}));
    let index = axum::body::Body::empty();
    let index = Request::post("/v2/repository/index").body(index).unwrap();
    let index = stack.send(index).await.json();
    assert_eq!(index[1]["batching"], expected, "{index}");
    assert!(index[0].get("batching").is_none(), "absent where it is unknown: {index}");
}
