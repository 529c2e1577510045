//! The protocol over gRPC: the calls of V2 with Triton's, KServe's and MLServer's additions, health, and reflection.
//!
//! gRPC in brief: a call is a `POST` over HTTP/2 to `/package.Service/Method`. Messages go in frames, each with a flag
//! ("compressed") and its length (u32, big-endian) before it. The outcome is a status in the trailers, while HTTP says 200.
//!
//! Modules stand in the order in which a call meets them.

/// When a call must be over: `grpc-timeout`.
mod deadline;

/// What a call may cost: time, bytes, memory.
mod bounds;

/// Messages out of a body, unpacked, within the bounds.
mod frames;

/// What a request takes in memory when it has been decoded.
mod weight;

/// Typed contents as a message, with strings in one piece.
mod typed;

/// Messages and services as generated from `proto/`.
pub mod proto;

/// The calls.
mod calls;

/// `ModelStreamInfer`.
mod stream;

/// One question, one answer.
mod infer;

/// A request's message → what every transport makes of one.
mod request;

/// Typed contents ↔ raw bytes.
mod contents;

/// An answer → a message.
mod response;

/// What there is to know of a model, as messages.
mod describe;

/// The repository, under both names that clients know.
mod repository;

/// `grpc.health.v1.Health`.
mod health;

/// An error → a status.
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

use crate::InferenceServer;
use proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use proto::inference::model_repository::model_repository_service_server::ModelRepositoryServiceServer;

/// All calls, to be merged with the routes of REST. A call to a service that there is not is not its business: the
/// answer that clients of gRPC understand comes from `service::instrument::instrument`.
pub fn router<S: InferenceServer>(server: S, bodies: BodyReader) -> Router {
    let calls = calls::Calls::new(server.clone(), bodies.clone());
    // Messages are bounded, and unpacked, before tonic sees them.
    let inference = GrpcInferenceServiceServer::new(calls)
        .max_decoding_message_size(usize::MAX)
        .send_compressed(CompressionEncoding::Gzip);
    let reflection = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let sound = "a test makes the descriptors anew and compares";
    let router = Router::new();
    let router = mount(router, &inference);
    let router = mount(router, &ModelRepositoryServiceServer::new(repository::Repository::new(server.clone())));
    let router = mount(router, &HealthServer::new(health::Health::new(server)));
    let router = mount(router, &reflection().build_v1().expect(sound));
    let router = mount(router, &reflection().build_v1alpha().expect(sound));
    router.route_layer(from_fn_with_state(bodies, bounds::apply))
}

/// A route for each call that the descriptors name, so that each has metrics of its own, and one for all others.
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
    router.route(&format!("/{}/{{*call}}", T::NAME), any(no_such_call))
}

async fn no_such_call() -> Response {
    Status::unimplemented("No such gRPC method.").into_http()
}
