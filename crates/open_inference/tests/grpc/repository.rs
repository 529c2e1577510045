use open_inference::grpc::proto::inference::model_repository::model_repository_service_client::ModelRepositoryServiceClient;
use open_inference::grpc::proto::inference::model_repository_parameter::ParameterChoice;
use open_inference::grpc::proto::inference::{
    ModelRepositoryParameter, RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest,
};
use tonic::Code;

use crate::support::Served;

fn load(repository_name: &str, model_name: &str) -> RepositoryModelLoadRequest {
    let (repository_name, model_name) = (repository_name.to_owned(), model_name.to_owned());
    RepositoryModelLoadRequest { repository_name, model_name, ..Default::default() }
}

#[tokio::test]
async fn the_index_lists_what_there_is_or_what_is_ready() {
    let served = Served::start().await;
    let mut other = ModelRepositoryServiceClient::new(served.channel.clone());
    for ready in [false, true] {
        let request = RepositoryIndexRequest { ready, ..Default::default() };
        let index = served.client().repository_index(request.clone()).await.unwrap().into_inner();
        let states: Vec<_> = index.models.iter().map(|one| (&*one.name, &*one.state, &*one.reason)).collect();
        let all = [("good", "READY", ""), ("bad", "UNAVAILABLE", "it is broken")];
        assert_eq!(states, all[..if ready { 1 } else { 2 }]);
        assert_eq!(other.repository_index(request).await.unwrap().into_inner(), index, "under MLServer's name too");
    }
}

#[tokio::test]
async fn models_are_loaded_and_unloaded_by_whichever_client() {
    let served = Served::start().await;
    let mut client = served.client();
    // Triton's and MLServer's, then KServe's, whose first field is the model's name.
    for request in [load("", "m"), load("m", "")] {
        let answer = client.repository_model_load(request).await.unwrap().into_inner();
        assert_eq!((answer.model_name.as_str(), answer.is_loaded), ("m", true));
    }
    let request = RepositoryModelUnloadRequest { model_name: "m".to_owned(), ..Default::default() };
    assert!(client.repository_model_unload(request.clone()).await.unwrap().into_inner().is_unloaded);
    let mut other = ModelRepositoryServiceClient::new(served.channel.clone());
    other.repository_model_load(load("", "n")).await.unwrap();
    other.repository_model_unload(request).await.unwrap();
    assert_eq!(*served.fake.told.lock().unwrap(), ["load m", "load m", "unload m", "load n", "unload m"]);
}

#[tokio::test]
async fn a_load_that_cannot_be_has_its_reason() {
    let served = Served::start().await;
    let config = ModelRepositoryParameter { parameter_choice: Some(ParameterChoice::StringParam("{}".to_owned())) };
    let with_config =
        RepositoryModelLoadRequest { parameters: [("config".to_owned(), config)].into(), ..load("", "m") };
    for (request, code) in [
        (load("", "bad"), Code::InvalidArgument),
        (load("", ""), Code::NotFound),
        (load("", "../m"), Code::NotFound),
        (load("", "a/b"), Code::NotFound),
        (with_config, Code::Unimplemented),
    ] {
        let error = served.client().repository_model_load(request).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
    assert_eq!(*served.fake.told.lock().unwrap(), ["load bad"]);
}
