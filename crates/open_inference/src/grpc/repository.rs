use tonic::{Request, Response, Status, async_trait};

use super::proto::inference as pb;
use super::proto::inference::model_repository::model_repository_service_server::ModelRepositoryService;
use super::proto::inference::repository_index_response::ModelIndex;
use crate::names::check_names;
use crate::server::check_load;
use crate::{Error, InferenceServer, ModelState};

/// The repository calls over a server, under MLServer's name; the main service lends them.
pub struct Repository<S> {
    server: S,
}

impl<S> Repository<S> {
    pub fn new(server: S) -> Self {
        Self { server }
    }
}

#[async_trait]
impl<S: InferenceServer> ModelRepositoryService for Repository<S> {
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
                state: state(entry.state).to_owned(),
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
        let model_name = name(request.repository_name, request.model_name)?;
        check_load(request.parameters.keys())?;
        self.server.load(&model_name, &metadata.into_headers()).await?;
        Ok(Response::new(pb::RepositoryModelLoadResponse { model_name, is_loaded: true }))
    }

    // Its parameters only say what to do with dependents, which no model here has.
    async fn repository_model_unload(
        &self,
        request: Request<pb::RepositoryModelUnloadRequest>,
    ) -> Result<Response<pb::RepositoryModelUnloadResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let model_name = name(request.repository_name, request.model_name)?;
        self.server.unload(&model_name, &metadata.into_headers()).await?;
        Ok(Response::new(pb::RepositoryModelUnloadResponse { model_name, is_unloaded: true }))
    }
}

/// KServe's clients send the model's name where others have the repository's, and nothing else.
fn name(repository: String, model: String) -> Result<String, Error> {
    let name = if model.is_empty() { repository } else { model };
    check_names(&name, None)?;
    Ok(name)
}

fn state(state: ModelState) -> &'static str {
    match state {
        ModelState::Loading => "LOADING",
        ModelState::Ready => "READY",
        ModelState::Unloading => "UNLOADING",
        ModelState::Unavailable => "UNAVAILABLE",
    }
}
