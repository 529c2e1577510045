use open_inference::grpc::proto::inference::model_repository::model_repository_service_client::ModelRepositoryServiceClient;
use open_inference::grpc::proto::inference::model_repository_parameter::ParameterChoice;
use open_inference::grpc::proto::inference::{
    ModelRepositoryParameter, RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest,
};
use tonic::Code;

use crate::support::TestServer;

fn load(repository_name: &str, model_name: &str) -> RepositoryModelLoadRequest {
    let (repository_name, model_name) = (repository_name.to_owned(), model_name.to_owned());
    RepositoryModelLoadRequest { repository_name, model_name, ..Default::default() }
}

#[tokio::test]
async fn the_index_lists_all_or_ready_models() {
    let server = TestServer::start().await;
    let mut other = ModelRepositoryServiceClient::new(server.channel.clone());
    for ready in [false, true] {
        let request = RepositoryIndexRequest { ready, ..Default::default() };
        let index = server.client().repository_index(request.clone()).await.unwrap().into_inner();
        let states: Vec<_> = index.models.iter().map(|one| (&*one.name, &*one.state, &*one.reason)).collect();
        let all = [("good", "READY", ""), ("bad", "UNAVAILABLE", "it is broken")];
        assert_eq!(states, all[..if ready { 1 } else { 2 }]);
        assert_eq!(other.repository_index(request).await.unwrap().into_inner(), index, "under MLServer's name too");
    }
}

#[tokio::test]
async fn models_are_loaded_and_unloaded_by_all_kinds_of_clients() {
    let server = TestServer::start().await;
    let mut client = server.client();
    // Clients of Triton and MLServer, then one of KServe, whose first field is the name of the model.
    for request in [load("", "m"), load("m", "")] {
        let response = client.repository_model_load(request).await.unwrap().into_inner();
        assert_eq!((response.model_name.as_str(), response.is_loaded), ("m", true));
    }
    let request = RepositoryModelUnloadRequest { model_name: "m".to_owned(), ..Default::default() };
    assert!(client.repository_model_unload(request.clone()).await.unwrap().into_inner().is_unloaded);
    let mut other = ModelRepositoryServiceClient::new(server.channel.clone());
    other.repository_model_load(load("", "n")).await.unwrap();
    other.repository_model_unload(request).await.unwrap();
    assert_eq!(*server.fake.repository_calls.lock().unwrap(), ["load m", "load m", "unload m", "load n", "unload m"]);
}

#[tokio::test]
async fn a_failed_load_has_a_reason() {
    let server = TestServer::start().await;
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
        let error = server.client().repository_model_load(request).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
    assert_eq!(*server.fake.repository_calls.lock().unwrap(), ["load bad"]);
}
