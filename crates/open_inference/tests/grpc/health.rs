use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::TestServer;

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn health_covers_the_server_and_each_model() {
    let server = TestServer::start().await;
    let mut client = HealthClient::new(server.channel.clone());
    for (service, status) in [
        ("", ServingStatus::Serving),
        ("inference.GRPCInferenceService", ServingStatus::Serving),
        ("inference.model_repository.ModelRepositoryService", ServingStatus::Serving),
        ("FP32", ServingStatus::Serving),
        ("busy", ServingStatus::NotServing),
    ] {
        assert_eq!(client.check(of(service)).await.unwrap().into_inner().status(), status, "{service}");
    }
    assert_eq!(client.check(of("none")).await.unwrap_err().code(), Code::NotFound);
    server.fake.unready.store(true, Ordering::SeqCst);
    assert_eq!(client.check(of("")).await.unwrap().into_inner().status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn a_watch_reports_changes_and_ends_when_the_server_stays_unready() {
    let server = TestServer::start().await;
    let mut client = HealthClient::new(server.channel.clone());
    let mut watch = client.watch(of("")).await.unwrap().into_inner();
    for (unready, status) in
        [(false, ServingStatus::Serving), (true, ServingStatus::NotServing), (false, ServingStatus::Serving)]
    {
        server.fake.unready.store(unready, Ordering::SeqCst);
        assert_eq!(watch.message().await.unwrap().unwrap().status(), status);
    }
    server.fake.unready.store(true, Ordering::SeqCst);
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let end = timeout(Duration::from_secs(8), watch.message()).await.expect("the watch has no end");
    assert_eq!(end.unwrap(), None);
}

#[tokio::test]
async fn an_unknown_service_can_be_watched() {
    let server = TestServer::start().await;
    let mut watch = HealthClient::new(server.channel.clone()).watch(of("none")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    assert!(timeout(Duration::from_millis(600), watch.message()).await.is_err(), "no change");
}
