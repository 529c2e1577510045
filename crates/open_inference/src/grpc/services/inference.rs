//! The main service, `inference.GRPCInferenceService`.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use service::body_limits::BodyReader;
use service::memory_budget::Reservation;
use service::peer::Peer;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status, Streaming, async_trait};

use super::infer::infer;
use super::repository::RepositoryService;
use super::stream;
use crate::blocking_pool::INLINE_BYTES;
use crate::error::Error;
use crate::grpc::message::request::optional_version;
use crate::grpc::message::{contents, metadata};
use crate::grpc::proto::inference::grpc_inference_service_server::GrpcInferenceService;
use crate::grpc::proto::inference::model_repository::model_repository_service_server::ModelRepositoryService;
use crate::grpc::proto::inference::{
    ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelMetadataRequest,
    ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse, ModelStatisticsRequest, ModelStatisticsResponse,
    ModelStreamInferResponse, RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest,
    RepositoryModelLoadResponse, RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, ServerLiveRequest,
    ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
};
use crate::grpc::transport::InFlight;
use crate::request::model_name::validate_model_name;
use crate::server::{InferenceServer, report_statistics};
use crate::types::ModelMetadata;

/// The main service of the protocol, on top of a server.
pub struct InferenceService<S> {
    server: S,
    repository: RepositoryService<S>,
    bodies: BodyReader,
}

impl<S: InferenceServer> InferenceService<S> {
    pub fn new(server: S, bodies: BodyReader) -> Self {
        Self { repository: RepositoryService::new(server.clone()), server, bodies }
    }

    fn model(&self, name: &str, version: String) -> Result<Arc<ModelMetadata>, Error> {
        let version = optional_version(version);
        validate_model_name(name, version.as_deref())?;
        self.server.model(name, version.as_deref())
    }
}

/// An empty reservation on behalf of the client.
fn reservation(bodies: &BodyReader, extensions: &Extensions) -> Reservation {
    bodies.budget().reservation(extensions.get::<Peer>().copied())
}

type RpcResult<T> = Result<Response<T>, Status>;

#[async_trait]
impl<S: InferenceServer> GrpcInferenceService for InferenceService<S> {
    type ModelStreamInferStream = Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

    async fn server_live(&self, _: Request<ServerLiveRequest>) -> RpcResult<ServerLiveResponse> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> RpcResult<ServerReadyResponse> {
        Ok(Response::new(ServerReadyResponse { ready: self.server.is_ready() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> RpcResult<ModelReadyResponse> {
        let request = request.into_inner();
        let version = optional_version(request.version);
        let ready = self.server.is_model_ready(&request.name, version.as_deref()).unwrap_or(false);
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(&self, _: Request<ServerMetadataRequest>) -> RpcResult<ServerMetadataResponse> {
        Ok(Response::new(metadata::server_metadata()))
    }

    async fn model_metadata(&self, request: Request<ModelMetadataRequest>) -> RpcResult<ModelMetadataResponse> {
        let request = request.into_inner();
        let model = self.model(&request.name, request.version)?;
        Ok(Response::new(metadata::model_metadata(&model, self.server.versions(&model.name))))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> RpcResult<ModelInferResponse> {
        let (request_metadata, extensions, message) = request.into_parts();
        let memory = reservation(&self.bodies, &extensions);
        let max_bytes = self.bodies.max_bytes();
        let (message, headers) =
            infer(&self.server, message, request_metadata.into_headers(), max_bytes, memory).await?;
        let raw: usize = message.raw_output_contents.iter().map(Bytes::len).sum();
        let typed: usize =
            message.outputs.iter().filter_map(|output| output.contents.as_ref()).map(contents::content_bytes).sum();
        let mut response = Response::new(message);
        // tonic compresses a message in one step, which would block the thread.
        if raw + typed > INLINE_BYTES {
            response.disable_compression();
        }
        *response.metadata_mut() = MetadataMap::from_headers(headers);
        Ok(response)
    }

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> RpcResult<Self::ModelStreamInferStream> {
        let (request_metadata, extensions, messages) = request.into_parts();
        let in_flight = extensions.get::<InFlight>().cloned().unwrap_or_default();
        let headers = request_metadata.into_headers();
        let memory = reservation(&self.bodies, &extensions);
        let responses =
            stream::infer_stream(self.server.clone(), messages, headers, in_flight, self.bodies.max_bytes(), memory);
        let mut response: Response<Self::ModelStreamInferStream> = Response::new(Box::pin(responses));
        // See above. Compression applies to a whole stream.
        response.disable_compression();
        Ok(response)
    }

    async fn model_config(&self, request: Request<ModelConfigRequest>) -> RpcResult<ModelConfigResponse> {
        let request = request.into_inner();
        let model = self.model(&request.name, request.version)?;
        Ok(Response::new(ModelConfigResponse {
            config: Some(metadata::model_config(&model, self.server.caches_results(&model))),
        }))
    }

    async fn model_statistics(&self, request: Request<ModelStatisticsRequest>) -> RpcResult<ModelStatisticsResponse> {
        let request = request.into_inner();
        let (model, version) = (optional_version(request.name), optional_version(request.version));
        if let Some(model) = &model {
            validate_model_name(model, version.as_deref())?;
        }
        let statistics = report_statistics(&self.server, model.as_deref(), version.as_deref())?;
        Ok(Response::new(ModelStatisticsResponse {
            model_stats: statistics.into_iter().map(metadata::model_statistics).collect(),
        }))
    }

    async fn repository_index(&self, request: Request<RepositoryIndexRequest>) -> RpcResult<RepositoryIndexResponse> {
        self.repository.repository_index(request).await
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> RpcResult<RepositoryModelLoadResponse> {
        self.repository.repository_model_load(request).await
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> RpcResult<RepositoryModelUnloadResponse> {
        self.repository.repository_model_unload(request).await
    }
}
