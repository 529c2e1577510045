//! gRPC transport of the protocol: the calls of V2 with the additions of Triton, KServe and MLServer, health, and
//! reflection.
//!
//! gRPC in brief: a call is an HTTP/2 `POST` to `/package.Service/Method`. Each message is a frame that starts with a
//! flag ("compressed") and a length (u32, big-endian). The result is a status in the trailers; the HTTP status is
//! always 200.

/// Framing, compression, limits and deadlines of messages.
mod transport;

/// `InferTensorContents`, with the elements of `BYTES` in one buffer.
mod typed;

/// Messages and services generated from `proto/`.
pub mod proto;

/// Conversion of messages.
mod message;

/// Implementations of the services.
mod services;

/// Conversion of errors to statuses.
mod status;

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, any_service};
use http::Request;
use prost::Message;
use prost_types::FileDescriptorSet;
use service::body_limits::BodyReader;
use tonic::Status;
use tonic::codec::CompressionEncoding;
use tonic::server::NamedService;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::Builder;
use tower::Service;

use self::services::{HealthService, InferenceService, RepositoryService};
use self::transport::enforce_limits;
use crate::server::InferenceServer;
use proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use proto::inference::model_repository::model_repository_service_server::ModelRepositoryServiceServer;

/// Builds the routes of all services, to be merged with those of REST. `service::instrument::instrument` responds to calls of
/// unknown services.
pub fn router<S: InferenceServer>(server: S, bodies: BodyReader) -> Router {
    let inference = InferenceService::new(server.clone(), bodies.clone());
    // The limits layer has already decompressed and limited the messages.
    let inference = GrpcInferenceServiceServer::new(inference)
        .max_decoding_message_size(usize::MAX)
        .send_compressed(CompressionEncoding::Gzip);
    let reflection = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let valid = "a test compares the descriptors with proto/";
    let router = Router::new();
    let router = mount(router, &inference);
    let router = mount(router, &ModelRepositoryServiceServer::new(RepositoryService::new(server.clone())));
    let router = mount(router, &HealthServer::new(HealthService::new(server)));
    let router = mount(router, &reflection().build_v1().expect(valid));
    let router = mount(router, &reflection().build_v1alpha().expect(valid));
    router.route_layer(from_fn_with_state(bodies, enforce_limits))
}

/// Adds a route per method in the descriptors, so that each has its own metrics, and one for unknown methods.
fn mount<T>(router: Router, service: &T) -> Router
where
    T: NamedService + Service<Request<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    T::Response: IntoResponse,
    T::Future: Send + 'static,
{
    use tonic_reflection::pb::{v1, v1alpha};

    let known = [
        proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        v1::FILE_DESCRIPTOR_SET,
        v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let files = known.into_iter().filter_map(|set| FileDescriptorSet::decode(set).ok()).flat_map(|set| set.file);
    let services = files.flat_map(|file| {
        let package = file.package().to_owned();
        file.service.into_iter().map(move |service| (format!("{package}.{}", service.name()), service.method))
    });
    let calls = services.filter(|(name, _)| name == T::NAME).flat_map(|(_, calls)| calls);
    let router = calls.fold(router, |router, call| {
        router.route(&format!("/{}/{}", T::NAME, call.name()), any_service(service.clone()))
    });
    router.route(&format!("/{}/{{*call}}", T::NAME), any(unknown_call))
}

async fn unknown_call() -> Response {
    Status::unimplemented("No such gRPC method.").into_http()
}
