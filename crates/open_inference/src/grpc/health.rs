use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use http::StatusCode;
use tokio::time::{Instant, sleep};
use tonic::{Request, Response, Status, async_trait};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::proto::inference::grpc_inference_service_server::SERVICE_NAME;
use super::proto::inference::model_repository::model_repository_service_server as model_repository;
use super::stream::UNREADY_PATIENCE;
use crate::InferenceServer;

/// How often a watched state is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Health of the server under the empty name and those of its services, and of each model under its own.
#[derive(Clone)]
pub struct Health<S> {
    server: S,
}

impl<S: InferenceServer> Health<S> {
    pub fn new(server: S) -> Self {
        Self { server }
    }

    fn state(&self, name: &str) -> ServingStatus {
        let serving = match name {
            "" | SERVICE_NAME | model_repository::SERVICE_NAME => Ok(self.server.is_ready()),
            model => self.server.is_model_ready(model, None),
        };
        match serving {
            Ok(true) => ServingStatus::Serving,
            Err(error) if error.status == StatusCode::NOT_FOUND => ServingStatus::ServiceUnknown,
            Ok(false) | Err(_) => ServingStatus::NotServing,
        }
    }
}

/// A watch, between two of its answers.
struct Watch<S> {
    health: Health<S>,
    name: String,
    said: Option<ServingStatus>,
    unready_since: Option<Instant>,
}

impl<S: InferenceServer> Watch<S> {
    /// The next change; `None` at the end. A server that is stopping would wait for its watchers, so a watch of an unready
    /// server ends after a while, and who is still interested asks again.
    async fn next(&mut self) -> Option<ServingStatus> {
        loop {
            let state = self.health.state(&self.name);
            if self.said.replace(state) != Some(state) {
                return Some(state);
            }
            if self.health.server.is_ready() {
                self.unready_since = None;
            } else if self.unready_since.get_or_insert_with(Instant::now).elapsed() >= UNREADY_PATIENCE {
                return None;
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}

#[async_trait]
impl<S: InferenceServer> health_server::Health for Health<S> {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match self.state(&request.into_inner().service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("there is no such service and no such model")),
            state => Ok(Response::new(HealthCheckResponse { status: state.into() })),
        }
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let name = request.into_inner().service;
        let watch = Watch { health: self.clone(), name, said: None, unready_since: None };
        Ok(Response::new(Box::pin(unfold(watch, |mut watch| async {
            let state = watch.next().await?;
            Some((Ok(HealthCheckResponse { status: state.into() }), watch))
        }))))
    }
}
