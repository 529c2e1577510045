use contract::ModelDescription;
use http::{HeaderValue, StatusCode, header};
use open_inference::{Datatype, Tensor, TensorMetadata};
use web_api::settings::AppType;

use crate::fake_model_api::model;
use crate::stack::{Answer, Stack, form_request, get_request, image_request};

async fn post_form(stack: &Stack, fields: &[(&str, Option<&str>, &str)]) -> Answer {
    let mut request = form_request("/predict", fields);
    request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("text/html,application/xhtml+xml"));
    // As browsers do with every form they post.
    request.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=0"));
    stack.send(request).await
}

#[tokio::test]
async fn the_cli_app_type_returns_json() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    assert_eq!(stack.send(get_request("/")).await.text(), "\"Can curl web api!\"");
    let answer = post_form(&stack, &[("image", Some("7.png"), "seven")]).await;
    assert_eq!(answer.header("content-type"), "application/json");
}

#[tokio::test]
async fn the_page_lists_the_models_and_loads_only_own_scripts() {
    let stack = Stack::start(AppType::Ui, &["medical", "mnist"]).await;
    let page = stack.send(get_request("/")).await;
    assert_eq!(page.status, StatusCode::OK);
    let html = page.text();
    assert!(html.contains("Title of mnist") && html.contains("Not for clinical use."));
    assert!(!html.contains("\"</script>\""), "a label must not end the element that holds the models");
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    assert_eq!(page.header("x-content-type-options"), "nosniff");
}

#[tokio::test]
async fn a_plain_form_post_returns_the_page_with_the_result() {
    let stack = Stack::start(AppType::Ui, &["medical"]).await;
    let html = post_form(&stack, &[("image", Some("7.png"), "seven")]).await.text();
    assert!(html.contains("75.00 %"), "{html}");
    assert!(html.contains("data:image/png;base64,c2V2ZW4="), "the uploaded image");
    assert!(html.contains("Not for clinical use."));
    let again = post_form(&stack, &[("image", Some("7.png"), "seven")]).await;
    assert_eq!(again.header("cache-status"), "mlserve; hit");
    assert!(again.text().contains("data-cached=\"true\""));
    assert_eq!(stack.runs(), 1);
}

#[tokio::test]
async fn a_plain_form_post_without_an_image_shows_the_error() {
    let stack = Stack::start(AppType::Ui, &["medical", "mnist"]).await;
    let page = post_form(&stack, &[("model", None, "mnist"), ("image", Some(""), "")]).await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
    assert!(page.text().contains("Upload an image first!"));
    assert!(page.text().contains("<option value=\"mnist\" selected>"), "the model stays selected");
}

#[tokio::test]
async fn every_file_of_the_page_exists_and_is_cacheable() {
    let stack = Stack::start(AppType::Ui, &["mnist"]).await;
    let html = stack.send(get_request("/")).await.text();
    let addresses: Vec<_> = html.split('"').filter(|part| part.starts_with("/static/")).collect();
    assert!(addresses.len() >= 3);
    for address in addresses {
        let file = stack.send(get_request(address)).await;
        assert_eq!(file.status, StatusCode::OK, "{address}");
        assert_eq!(file.header("cache-control"), "public, max-age=31536000, immutable", "{address}");
    }
    let mut again = get_request("/static/app.js");
    let etag = stack.send(get_request("/static/app.js")).await.headers["etag"].clone();
    again.headers_mut().insert(header::IF_NONE_MATCH, etag);
    assert_eq!(stack.send(again).await.status, StatusCode::NOT_MODIFIED);
    assert_eq!(stack.send(get_request("/static/..%2fmain.rs")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_preview_is_the_preprocessed_image() {
    let stack = Stack::start(AppType::Ui, &["mnist"]).await;
    let preview = stack.send(image_request("/input/mnist", "seven")).await;
    assert_eq!((preview.status, preview.header("content-type")), (StatusCode::OK, "image/png"));
    assert_eq!(preview.body, b"\x89PNG preview");
}

#[tokio::test]
async fn a_model_without_images_shows_its_signature_and_no_form() {
    let stack = Stack::start(AppType::Ui, &["mnist", "table"]).await;
    let html = stack.send(get_request("/?model=table")).await.text();
    assert!(html.contains("<option value=\"table\" selected>"));
    assert!(html.contains("<div class=\"columns\" hidden>"), "{html}");
    assert!(html.contains("POST /v2/models/table/infer"));
    assert!(!stack.send(get_request("/")).await.text().contains("<div class=\"columns\" hidden>"));
}

/// Page with the result of a model with these outputs, which have no task.
async fn page_with(outputs: Vec<Tensor>) -> String {
    let metadata = |output: &Tensor| TensorMetadata::new(&output.name, output.datatype, &vec![-1; output.shape.len()]);
    let described = ModelDescription { outputs: outputs.iter().map(metadata).collect(), ..model("m") };
    let stack = Stack::serving(vec![described], |settings| settings.app_type = AppType::Ui).await;
    stack.model_api.outputs.lock().unwrap().insert("m".to_owned(), outputs);
    let answer = post_form(&stack, &[("image", Some("7.png"), "seven")]).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let html = answer.text();
    html[html.find("<div id=\"answer\">").unwrap()..html.find("<div id=\"several\"").unwrap()].to_owned()
}

#[tokio::test]
async fn outputs_without_a_task_are_shown_without_interpretation() {
    let values: Vec<_> = (0..20_u8).map(f32::from).collect();
    let numbers = Tensor::from_f32("numbers", Datatype::Fp32, vec![1, 20], &values).unwrap();
    let texts = Tensor::from_strings("<words>", vec![1], [&b"<b>"[..]]);
    let html = page_with(vec![numbers, texts]).await;
    assert!(html.contains("<h3 data-slot=\"label\">2 outputs</h3>"), "{html}");
    assert!(html.contains("<td>FP32 1 × 20</td><td>0, 1, 2, 3, 4, 5, 6, 7, … 12 more</td>"), "{html}");
    assert!(html.contains("&#60;words&#62;") && html.contains("“&#60;b&#62;”"), "{html}");
    assert!(html.contains("Declare it with “task” of an output in model-settings.json"), "{html}");
    assert!(!html.contains('%'), "{html}");
}

#[tokio::test]
async fn an_empty_result_is_shown() {
    let html = page_with(vec![Tensor::from_f32("boxes", Datatype::Fp32, vec![0, 4], &[]).unwrap()]).await;
    assert!(html.contains("Empty result") && html.contains("The model returned an empty result"), "{html}");
    assert!(html.contains("<td>FP32 0 × 4</td><td>empty</td>"), "{html}");
}

#[tokio::test]
async fn a_model_that_could_accept_images_shows_the_missing_settings() {
    let inputs = vec![TensorMetadata::new("x", Datatype::Fp32, &[-1, 3, 32, 32])];
    let bare = ModelDescription { inputs, image: None, ..model("bare") };
    let stack = Stack::serving(vec![bare, model("table")], |settings| settings.app_type = AppType::Ui).await;
    let html = stack.send(get_request("/?model=bare")).await.text();
    assert_eq!(html.matches("Does it take images?").count(), 1, "only for the model `bare`");
    let settings = "{&#34;inputs&#34;: [{&#34;name&#34;: &#34;x&#34;, &#34;parameters&#34;: {&#34;content_type&#34;: &#34;image&#34;}}]}";
    assert!(html.contains(settings), "{html}");
    assert!(html.contains("<code>bare/model-settings.json</code>"), "{html}");
}
