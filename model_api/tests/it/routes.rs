use axum::http::StatusCode;
use model_api::repository::RepositoryAccess;
use model_api::session::StartError;
use serde_json::json;

use crate::support::fake::{CRASH, Fake, REJECT, RETURN_NAN};
use crate::support::folder::Folder;
use crate::support::router::Service;
use crate::support::squares::{png, squares, squares_for};

fn array(first: f32) -> String {
    format!(r#"{{"image_arr": [[{first}, 0.1], [0.2, 0.3]]}}"#)
}

mod get {
    use super::*;

    #[tokio::test]
    async fn root_returns_the_greeting_of_the_first_mlserve() {
        let response = squares().await.get("/").await;
        assert_eq!((response.status, response.json()), (StatusCode::OK, json!("Can curl model api!")));
    }

    #[tokio::test]
    async fn models_lists_all_that_a_page_needs() {
        let models = squares().await.get("/models").await.json();
        let model = &models["models"][0];
        assert!(model["digest"].as_str().unwrap().starts_with("sha256:"));
        let image = json!({"content_type": "image"});
        assert_eq!(
            model["inputs"],
            json!([{"name": "x", "datatype": "FP32", "shape": [-1, 2, 2, 1], "parameters": image}])
        );
        assert_eq!((&model["max_batch_size"], &model["independent_rows"]), (&json!(16), &json!(true)));
        assert_eq!(model["image"], json!({"width": 2, "height": 2, "color": "gray", "fit": "stretch"}));
        for (field, value) in
            [("name", "squares"), ("version", "1"), ("title", "Squares"), ("notice", "A toy."), ("state", "READY")]
        {
            assert_eq!(model[field], value);
        }
    }

    #[tokio::test]
    async fn unknown_routes_and_methods_are_problems() {
        let service = squares().await;
        assert_eq!(service.get("/nothing").await.problem().0, 404);
        assert_eq!(service.get("/predict_array/squares").await.problem().0, 405);
    }
}

mod browsers {
    use axum::http::{HeaderMap, HeaderName, HeaderValue};
    use service::shared_secret::SharedSecret;

    use super::*;

    fn one(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    #[tokio::test]
    async fn are_rejected_on_every_route() {
        let service = squares().await;
        for (name, value) in
            [("origin", "http://localhost:5050"), ("sec-fetch-site", "same-origin"), ("sec-fetch-dest", "empty")]
        {
            for path in ["/predict_array/squares", "/input/squares", "/nowhere"] {
                let response = service.post_with(path, one(name, value), array(0.9).into()).await;
                assert_eq!(response.problem().0, 403, "{name} {path}");
            }
            for path in ["/v2/models/squares/infer", "/v2/repository/models/squares/unload"] {
                assert_eq!(
                    service.post_with(path, one(name, value), "{}".into()).await.error().0,
                    403,
                    "{name} {path}"
                );
            }
        }
        assert_eq!(
            service.post_with("/v2/repository/index", one("host", "rebound.example"), "".into()).await.error().0,
            421
        );
        assert_eq!(service.get("/v2/models/squares/ready").await.status, StatusCode::OK, "nothing was unloaded");
    }

    #[tokio::test]
    async fn and_clients_without_the_secret_load_and_unload_nothing() {
        let secret = SharedSecret::new("0123456789abcdef").unwrap();
        let service = squares_for(RepositoryAccess::Secret(secret.clone())).await;
        let closed = squares_for(RepositoryAccess::Closed).await;
        for path in ["/v2/repository/models/squares/unload", "/v2/repository/models/squares/load"] {
            let wrong = HeaderMap::from_iter([SharedSecret::new("0123456789abcdeF").unwrap().header()]);
            for (service, headers) in
                [(&service, HeaderMap::new()), (&service, wrong), (&closed, HeaderMap::from_iter([secret.header()]))]
            {
                let (status, reason) = service.post_with(path, headers, "".into()).await.error();
                assert!(status == 403 && reason.contains("MODEL_API_SECRET"), "{status} {reason}");
            }
        }
        assert_eq!(service.get("/v2/models/squares/ready").await.status, StatusCode::OK);
        let unload = "/v2/repository/models/squares/unload";
        let unloaded = service.post_with(unload, HeaderMap::from_iter([secret.header()]), "".into()).await;
        assert_eq!(unloaded.status, StatusCode::OK);
    }
}

mod predict_array {
    use super::*;

    #[tokio::test]
    async fn responds_like_the_first_mlserve_with_and_without_a_name() {
        let service = squares().await;
        for path in ["/predict_array", "/predict_array/squares"] {
            let response = service.post(path, "text/plain", array(0.9)).await;
            assert_eq!(response.json(), json!({"cls": 0, "value": 0.9}), "{path}");
        }
    }

    #[tokio::test]
    async fn of_several_models_one_must_be_named() {
        let folder = Folder::new().with("a.onnx", "").with("b/model.onnx", "");
        let service = Service::new(folder, &Fake::default()).warm().await;
        let (status, detail) = service.post_json("/predict_array", &array(0.9)).await.problem();
        assert_eq!((status, detail.as_str()), (422, "Several models are served; name one in the path: a, b."));
        assert_eq!(service.post_json("/predict_array/b", &array(0.9)).await.status, StatusCode::OK);
    }

    #[tokio::test]
    async fn each_error_of_an_array_has_its_status() {
        let service = squares().await;
        let deep = format!(r#"{{"image_arr": {}1{}}}"#, "[".repeat(1000), "]".repeat(1000));
        for (body, status, words) in [
            ("", 400, "EOF"),
            (r#"{"image_arr": [[1, 2], [3]]}"#, 400, "ragged"),
            (r#"{"image_arr": [NaN]}"#, 400, "expected"),
            (deep.as_str(), 400, "nested more than 8 deep"),
            (r#"{"image_arr": []}"#, 422, "image_arr has the shape [0], which does not fit the model's [-1, 2, 2, 1]"),
            (r#"{"image_arr": [1, 2, 3]}"#, 422, "has the shape [3]"),
        ] {
            let (found, detail) = service.post_json("/predict_array", body).await.problem();
            assert_eq!(found, status, "{detail}");
            assert!(detail.contains(words), "{detail}");
        }
    }

    #[tokio::test]
    async fn a_result_that_json_cannot_represent_is_an_error() {
        let (status, detail) = squares().await.post_json("/predict_array", &array(RETURN_NAN)).await.problem();
        assert_eq!((status, detail.as_str()), (422, "The result for this input is not a finite number."));
    }

    #[tokio::test]
    async fn each_run_error_has_its_status() {
        let service = squares().await;
        let (status, detail) = service.post_json("/predict_array", &array(REJECT)).await.problem();
        assert_eq!((status, detail.as_str()), (422, "no such input"));
        let (status, detail) = service.post_json("/predict_array", &array(CRASH)).await.problem();
        assert_eq!((status, detail.as_str()), (500, "The model crashed on this request."));
        assert_eq!(service.post_json("/predict_array", &array(0.9)).await.status, StatusCode::OK);
    }

    #[tokio::test]
    async fn an_unavailable_model_is_503_with_retry_after() {
        let fake = Fake::failing((0..99).map(|_| StartError::Model("no such operator".to_owned())));
        let service = Service::new(Folder::new().with("m.onnx", ""), &fake);
        while fake.launches() == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        let response = service.post_json("/predict_array", &array(0.9)).await;
        assert_eq!(response.retry_after.as_deref(), Some("1"));
        assert_eq!(response.problem(), (503, "m is not available: no such operator.".to_owned()));
    }
}

mod input {
    use super::*;

    #[tokio::test]
    async fn returns_the_image_as_the_model_receives_it() {
        let response = squares().await.post("/input/squares", "image/png", png()).await;
        assert_eq!((response.status, response.media_type.as_str()), (StatusCode::OK, "image/png"));
        let seen = image::load_from_memory(&response.body).unwrap().to_luma8();
        assert_eq!((seen.dimensions(), seen.as_raw().as_slice()), ((2, 2), &[0, 51, 255, 102][..]));
    }

    #[tokio::test]
    async fn rejects_a_body_that_is_not_an_image() {
        let service = squares().await;
        assert_eq!(service.post("/input/squares", "image/png", "hello").await.problem().0, 415);
        assert_eq!(service.post("/input/nobody", "image/png", png()).await.problem().0, 404);
    }
}
