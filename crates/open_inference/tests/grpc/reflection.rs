use std::collections::BTreeSet;

use futures_util::stream;
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::TestServer;

const SERVICES: [&str; 3] =
    ["inference.GRPCInferenceService", "inference.model_repository.ModelRepositoryService", "grpc.health.v1.Health"];

#[tokio::test]
async fn both_versions_of_reflection_describe_the_services() {
    use v1::server_reflection_request::MessageRequest;
    use v1::server_reflection_response::MessageResponse;
    use v1alpha::server_reflection_request::MessageRequest as OldRequest;
    use v1alpha::server_reflection_response::MessageResponse as OldResponse;

    let server = TestServer::start().await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(server.channel.clone());
    let list = MessageRequest::ListServices(String::new());
    let symbol = MessageRequest::FileContainingSymbol("inference.ModelInferRequest".to_owned());
    let requests = [list, symbol]
        .map(|request| v1::ServerReflectionRequest { host: String::new(), message_request: Some(request) });
    let mut responses = client.server_reflection_info(stream::iter(requests)).await.unwrap().into_inner();
    let list = responses.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = list else { panic!("{list:?}") };
    let names: BTreeSet<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.is_superset(&SERVICES.into()), "{names:?}");
    let file = responses.message().await.unwrap().unwrap().message_response;
    assert!(matches!(file, Some(MessageResponse::FileDescriptorResponse(_))), "{file:?}");

    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(server.channel.clone());
    let list = Some(OldRequest::ListServices(String::new()));
    let request = v1alpha::ServerReflectionRequest { host: String::new(), message_request: list };
    let mut responses = client.server_reflection_info(stream::iter([request])).await.unwrap().into_inner();
    let list = responses.message().await.unwrap().unwrap().message_response;
    let Some(OldResponse::ListServicesResponse(list)) = list else { panic!("{list:?}") };
    let names: BTreeSet<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.is_superset(&SERVICES.into()), "{names:?}");
}
