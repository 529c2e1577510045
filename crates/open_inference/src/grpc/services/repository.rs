//! The model repository service, `inference.model_repository.ModelRepositoryService`.

use tonic::{Request, Response, Status, async_trait};

use crate::error::Error;
use crate::grpc::proto::inference as pb;
use crate::grpc::proto::inference::model_repository::model_repository_service_server::ModelRepositoryService;
use crate::grpc::proto::inference::repository_index_response::ModelIndex;
use crate::request::model_name::validate_model_name;
use crate::server::{InferenceServer, validate_load_parameters};
use crate::types::ModelState;

/// MLServer's model repository service. The main service has the same calls and delegates to it.
pub struct RepositoryService<S> {
    server: S,
}

impl<S> RepositoryService<S> {
    pub fn new(server: S) -> Self {
        Self { server }
    }
}

#[async_trait]
impl<S: InferenceServer> ModelRepositoryService for RepositoryService<S> {
    async fn repository_index(
        &self,
        request: Request<pb::RepositoryIndexRequest>,
    ) -> Result<Response<pb::RepositoryIndexResponse>, Status> {
        let only_ready = request.into_inner().ready;
        let index = self.server.repository_index().await?;
        let models = index
            .into_iter()
            .filter(|entry| !only_ready || entry.state == ModelState::Ready)
            .map(|entry| ModelIndex {
                name: entry.name,
                version: entry.version,
                state: state_name(entry.state).to_owned(),
                reason: entry.reason,
            })
            .collect();
        Ok(Response::new(pb::RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        request: Request<pb::RepositoryModelLoadRequest>,
    ) -> Result<Response<pb::RepositoryModelLoadResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let model_name = validated_name(request.repository_name, request.model_name)?;
        validate_load_parameters(request.parameters.keys())?;
        self.server.load(&model_name, &metadata.into_headers()).await?;
        Ok(Response::new(pb::RepositoryModelLoadResponse { model_name, is_loaded: true }))
    }

    // Its parameters only concern dependents, which models here do not have.
    async fn repository_model_unload(
        &self,
        request: Request<pb::RepositoryModelUnloadRequest>,
    ) -> Result<Response<pb::RepositoryModelUnloadResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let model_name = validated_name(request.repository_name, request.model_name)?;
        self.server.unload(&model_name, &metadata.into_headers()).await?;
        Ok(Response::new(pb::RepositoryModelUnloadResponse { model_name, is_unloaded: true }))
    }
}

/// KServe's clients send the name of the model in `repository_name`.
fn validated_name(repository: String, model: String) -> Result<String, Error> {
    let name = if model.is_empty() { repository } else { model };
    validate_model_name(&name, None)?;
    Ok(name)
}

fn state_name(state: ModelState) -> &'static str {
    match state {
        ModelState::Loading => "LOADING",
        ModelState::Ready => "READY",
        ModelState::Unloading => "UNLOADING",
        ModelState::Unavailable => "UNAVAILABLE",
    }
}
