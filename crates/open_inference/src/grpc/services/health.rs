//! The health service, `grpc.health.v1.Health`.

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

use super::stream::UNREADY_IDLE_TIMEOUT;
use crate::grpc::proto::inference::grpc_inference_service_server::SERVICE_NAME;
use crate::grpc::proto::inference::model_repository::model_repository_service_server as model_repository;
use crate::server::InferenceServer;

/// Interval at which a watch polls the state.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Health service: the server under the empty name and under the names of its services, and each model under its own
/// name.
#[derive(Clone)]
pub struct HealthService<S> {
    server: S,
}

impl<S: InferenceServer> HealthService<S> {
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

/// A health watch.
struct Watch<S> {
    health: HealthService<S>,
    name: String,
    last_sent: Option<ServingStatus>,
    unready_since: Option<Instant>,
}

impl<S: InferenceServer> Watch<S> {
    /// The next change of state; `None` at the end. A watch would keep a stopping server from shutting down, so it ends
    /// when the server stays unready. The client may watch again.
    async fn next(&mut self) -> Option<ServingStatus> {
        loop {
            let state = self.health.state(&self.name);
            if self.last_sent.replace(state) != Some(state) {
                return Some(state);
            }
            if self.health.server.is_ready() {
                self.unready_since = None;
            } else if self.unready_since.get_or_insert_with(Instant::now).elapsed() >= UNREADY_IDLE_TIMEOUT {
                return None;
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

#[async_trait]
impl<S: InferenceServer> health_server::Health for HealthService<S> {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match self.state(&request.into_inner().service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("there is no such service or model")),
            state => Ok(Response::new(HealthCheckResponse { status: state.into() })),
        }
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let name = request.into_inner().service;
        let watch = Watch { health: self.clone(), name, last_sent: None, unready_since: None };
        Ok(Response::new(Box::pin(unfold(watch, |mut watch| async {
            let state = watch.next().await?;
            Some((Ok(HealthCheckResponse { status: state.into() }), watch))
        }))))
    }
}
