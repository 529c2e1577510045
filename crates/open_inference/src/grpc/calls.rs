use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use service::body_limits::BodyReader;
use service::memory_budget::Reservation;
use service::peer::Peer;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status, Streaming, async_trait};

use super::frames::UnderWay;
use super::infer::infer;
use super::proto::inference::grpc_inference_service_server::GrpcInferenceService;
use super::proto::inference::model_repository::model_repository_service_server::ModelRepositoryService;
use super::proto::inference::{
    ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelMetadataRequest,
    ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse, ModelStatisticsRequest, ModelStatisticsResponse,
    ModelStreamInferResponse, RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest,
    RepositoryModelLoadResponse, RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, ServerLiveRequest,
    ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
};
use super::repository::Repository;
use super::request::version;
use super::{contents, describe, stream};
use crate::answer::LARGE;
use crate::names::check_names;
use crate::{Error, InferenceServer, ModelMetadata, report_statistics};

/// The calls of the main service over a server.
pub struct Calls<S> {
    server: S,
    repository: Repository<S>,
    bodies: BodyReader,
}

impl<S: InferenceServer> Calls<S> {
    pub fn new(server: S, bodies: BodyReader) -> Self {
        Self { repository: Repository::new(server.clone()), server, bodies }
    }

    fn model(&self, name: &str, asked: String) -> Result<Arc<ModelMetadata>, Error> {
        let version = version(asked);
        check_names(name, version.as_deref())?;
        self.server.model(name, version.as_deref())
    }
}

/// An empty reservation on behalf of the client of a call.
fn memory(bodies: &BodyReader, extensions: &Extensions) -> Reservation {
    bodies.budget().reservation(extensions.get::<Peer>().copied())
}

type Answer<T> = Result<Response<T>, Status>;

#[async_trait]
impl<S: InferenceServer> GrpcInferenceService for Calls<S> {
    type ModelStreamInferStream = Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Answer<ServerLiveResponse> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Answer<ServerReadyResponse> {
        Ok(Response::new(ServerReadyResponse { ready: self.server.is_ready() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Answer<ModelReadyResponse> {
        let request = request.into_inner();
        let version = version(request.version);
        let ready = self.server.is_model_ready(&request.name, version.as_deref()).unwrap_or(false);
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(&self, _: Request<ServerMetadataRequest>) -> Answer<ServerMetadataResponse> {
        Ok(Response::new(describe::server()))
    }

    async fn model_metadata(&self, request: Request<ModelMetadataRequest>) -> Answer<ModelMetadataResponse> {
        let request = request.into_inner();
        let model = self.model(&request.name, request.version)?;
        Ok(Response::new(describe::metadata(&model, self.server.versions(&model.name))))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Answer<ModelInferResponse> {
        let (metadata, extensions, message) = request.into_parts();
        let memory = memory(&self.bodies, &extensions);
        let max_bytes = self.bodies.max_bytes();
        let (message, headers) = infer(&self.server, message, metadata.into_headers(), max_bytes, memory).await?;
        let raw: usize = message.raw_output_contents.iter().map(Bytes::len).sum();
        let typed: usize =
            message.outputs.iter().filter_map(|output| output.contents.as_ref()).map(contents::size).sum();
        let mut response = Response::new(message);
        // tonic compresses in one go, and nobody else on this thread would get on meanwhile.
        if raw + typed > LARGE {
            response.disable_compression();
        }
        *response.metadata_mut() = MetadataMap::from_headers(headers);
        Ok(response)
    }

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Answer<Self::ModelStreamInferStream> {
        let (metadata, extensions, messages) = request.into_parts();
        let under_way = extensions.get::<UnderWay>().cloned().unwrap_or_default();
        let headers = metadata.into_headers();
        let memory = memory(&self.bodies, &extensions);
        let answers =
            stream::answers(self.server.clone(), messages, headers, under_way, self.bodies.max_bytes(), memory);
        let mut response: Response<Self::ModelStreamInferStream> = Response::new(Box::pin(answers));
        // As above; and a stream has one word for all its messages.
        response.disable_compression();
        Ok(response)
    }

    async fn model_config(&self, request: Request<ModelConfigRequest>) -> Answer<ModelConfigResponse> {
        let request = request.into_inner();
        let model = self.model(&request.name, request.version)?;
        Ok(Response::new(ModelConfigResponse { config: Some(describe::config(&model, self.server.caches(&model))) }))
    }

    async fn model_statistics(&self, request: Request<ModelStatisticsRequest>) -> Answer<ModelStatisticsResponse> {
        let request = request.into_inner();
        let (model, version) = (version(request.name), version(request.version));
        if let Some(model) = &model {
            check_names(model, version.as_deref())?;
        }
        let statistics = report_statistics(&self.server, model.as_deref(), version.as_deref())?;
        Ok(Response::new(ModelStatisticsResponse {
            model_stats: statistics.into_iter().map(describe::statistics).collect(),
        }))
    }

    async fn repository_index(&self, request: Request<RepositoryIndexRequest>) -> Answer<RepositoryIndexResponse> {
        self.repository.repository_index(request).await
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Answer<RepositoryModelLoadResponse> {
        self.repository.repository_model_load(request).await
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Answer<RepositoryModelUnloadResponse> {
        self.repository.repository_model_unload(request).await
    }
}
