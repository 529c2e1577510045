use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use open_inference::grpc::proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use open_inference::grpc::proto::inference::model_infer_request::InferInputTensor;
use open_inference::grpc::proto::inference::{InferParameter, ModelInferRequest, infer_parameter::ParameterChoice};
use open_inference::{
    CacheLookup, ContentType, Datatype, Error, InferRequest, Inference, InferenceServer, ModelIndex, ModelMetadata,
    ModelState, Provenance, Statistics, Task, Tensor, TensorMetadata, Timing, grpc, rest,
};
use prometheus_client::registry::Registry;
use service::body_limits::BodyReader;
use service::instrument::{HttpMetrics, instrument};
use service::readiness::Readiness;
use service::request_guard::RequestGuard;
use service::settings::ServerSettings;
use tokio::net::TcpListener;
use tonic::transport::Channel;

pub const MAX_BODY_BYTES: usize = 1 << 20;

/// A model for each datatype under its name, which gives back what it gets; `two` with two inputs; `picture`, which takes
/// them, `photo`, whose results are cached, and `mask`, which gives them; `slow`, which takes as
/// many seconds as its first element says; `busy` and `panics`.
#[derive(Clone, Default)]
pub struct Fake(Arc<State>);

#[derive(Default)]
pub struct State {
    pub unready: AtomicBool,
    /// Of a request that was being answered when it was given up.
    pub given_up: AtomicUsize,
    pub begun: AtomicUsize,
    pub at_once: AtomicUsize,
    pub most_at_once: AtomicUsize,
    pub headers: Mutex<HeaderMap>,
    pub told: Mutex<Vec<String>>,
    statistics: Statistics,
}

impl std::ops::Deref for Fake {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

/// Counts a request that is dropped before it is answered.
struct UnderWay<'a>(&'a State, bool);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, Ordering::SeqCst);
        self.0.given_up.fetch_add(usize::from(!self.1), Ordering::SeqCst);
    }
}

fn model(name: &str, inputs: &[(&str, Datatype)]) -> ModelMetadata {
    let tensors = |suffix: &str| {
        let tensor = |(name, datatype): &(&str, Datatype)| {
            let mut tensor = TensorMetadata::new(&format!("{name}{suffix}"), *datatype, &[-1]);
            tensor.parameters.allow_empty = true;
            tensor
        };
        inputs.iter().map(tensor).collect()
    };
    ModelMetadata {
        name: name.to_owned(),
        version: "2".to_owned(),
        inputs: tensors(""),
        outputs: tensors("_out"),
        max_batch_size: 8,
        platform: open_inference::Platform::default(),
        batching: None,
        not_cached: None,
    }
}

impl InferenceServer for Fake {
    fn is_ready(&self) -> bool {
        !self.unready.load(Ordering::SeqCst)
    }

    fn models(&self) -> Vec<Arc<ModelMetadata>> {
        let echoes = Datatype::ALL.into_iter().map(|datatype| model(datatype.name(), &[("x", datatype)]));
        let others = ["slow", "busy", "panics"].map(|name| model(name, &[("x", Datatype::Fp32)]));
        let two = model("two", &[("a", Datatype::Int32), ("b", Datatype::Fp16)]);
        let mut picture = model("picture", &[("p", Datatype::Fp32)]);
        picture.inputs[0].parameters.content_type = Some(ContentType::Image);
        picture.inputs[0].shape = vec![-1, 2, 2, 1];
        picture.outputs = vec![TensorMetadata::new("p_out", Datatype::Bytes, &[-1])];
        let mut mask = model("mask", &[("x", Datatype::Uint8)]);
        mask.inputs[0].shape = vec![-1, -1, -1];
        mask.outputs[0].parameters.task = Some(Task::Image);
        let mut photo = model("photo", &[("x", Datatype::Fp32)]);
        photo.inputs[0].shape = vec![-1, 3, 224, 224];
        echoes.chain(others).chain([two, picture, mask, photo]).map(Arc::new).collect()
    }

    fn versions(&self, _: &str) -> Vec<String> {
        ["1", "2"].map(str::to_owned).into()
    }

    fn model(&self, name: &str, version: Option<&str>) -> Result<Arc<ModelMetadata>, Error> {
        let unknown = |what: String| Error::new(StatusCode::NOT_FOUND, format!("there is no {what}"));
        let found = self.models().into_iter().find(|model| model.name == name);
        let mut model = found.ok_or_else(|| unknown(format!("model {name:?}")))?;
        if let Some(version) = version {
            if !self.versions(name).iter().any(|one| one == version) {
                return Err(unknown(format!("version {version:?}")));
            }
            version.clone_into(&mut Arc::make_mut(&mut model).version);
        }
        Ok(model)
    }

    fn is_model_ready(&self, name: &str, version: Option<&str>) -> Result<bool, Error> {
        self.model(name, version).map(|model| model.name != "busy")
    }

    fn caches(&self, model: &ModelMetadata) -> bool {
        model.name == "photo"
    }

    async fn infer(&self, request: InferRequest) -> Result<Inference, Error> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(at_once, Ordering::SeqCst);
        let mut under_way = UnderWay(&self.0, false);
        self.headers.lock().unwrap().clone_from(&request.headers);
        match request.model.as_str() {
            "slow" => tokio::time::sleep(Duration::from_secs_f32(request.inputs[0].to_f32()[0])).await,
            "busy" => {
                under_way.1 = true;
                return Err(Error::new(StatusCode::SERVICE_UNAVAILABLE, "all are busy"));
            }
            "panics" => panic!("as a test wants it"),
            _ => {}
        }
        under_way.1 = true;
        let timing_ms = Timing { decode: 0.5, queue: 1.0, infer: 2.0 };
        let version = request.version.unwrap_or_else(|| "2".to_owned());
        let rows = request.inputs[0].rows().unwrap_or(1) as u64;
        let (total, cache) = (Duration::from_millis(4), Some(CacheLookup::Miss));
        self.statistics.succeeded(&request.model, &version, rows, &timing_ms, total, cache);
        let rename = |tensor: Tensor| Tensor { name: format!("{}_out", tensor.name), ..tensor };
        Ok(Inference {
            model: request.model,
            version,
            outputs: request.inputs.into_iter().map(rename).collect(),
            provenance: Provenance { model_digest: "sha256:00".to_owned(), device: "cpu".to_owned(), timing_ms },
            headers: [
                (header::AGE, HeaderValue::from(3)),
                (header::ETAG, HeaderValue::from_static("\"key\"")),
                (http::HeaderName::from_static("cache-status"), HeaderValue::from_static("mlserve; hit")),
            ]
            .into_iter()
            .collect(),
        })
    }

    fn statistics(&self) -> &Statistics {
        &self.0.statistics
    }

    async fn index(&self) -> Result<Vec<ModelIndex>, Error> {
        let entry = |name: &str, state, reason: &str| ModelIndex {
            name: name.to_owned(),
            version: "1".to_owned(),
            state,
            reason: reason.to_owned(),
            batching: None,
        };
        Ok(vec![entry("good", ModelState::Ready, ""), entry("bad", ModelState::Unavailable, "it is broken")])
    }

    async fn load(&self, model: &str, _: &HeaderMap) -> Result<(), Error> {
        self.told.lock().unwrap().push(format!("load {model}"));
        if model == "bad" { Err(Error::unfit("it is broken")) } else { Ok(()) }
    }

    async fn unload(&self, model: &str, _: &HeaderMap) -> Result<(), Error> {
        self.told.lock().unwrap().push(format!("unload {model}"));
        Ok(())
    }
}

/// A server on a port of its own.
pub struct Served {
    pub fake: Fake,
    pub channel: Channel,
}

pub fn settings() -> ServerSettings {
    ServerSettings {
        max_body_bytes: MAX_BODY_BYTES,
        body_memory_bytes: 4 * MAX_BODY_BYTES,
        body_timeout: Duration::from_secs(1),
        ..ServerSettings::from_env(0, 0).unwrap()
    }
}

/// All routes, without a socket.
pub fn router(fake: &Fake) -> Router {
    let http = HttpMetrics::register(&mut Registry::default());
    let bodies = BodyReader::new(&settings());
    // As the services have them: both on one port.
    instrument(
        rest::router(fake.clone(), bodies.clone()).merge(grpc::router(fake.clone(), bodies)),
        http,
        RequestGuard::default(),
    )
}

impl Served {
    pub async fn start() -> Self {
        let fake = Fake::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = router(&fake);
        tokio::spawn(async move {
            service::http_server::serve(listener, app, &settings(), &Readiness::default(), std::future::pending()).await
        });
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { fake, channel }
    }

    pub fn client(&self) -> GrpcInferenceServiceClient<Channel> {
        GrpcInferenceServiceClient::new(self.channel.clone())
    }
}

/// A request with raw contents.
pub fn raw(model: &str, inputs: &[Tensor]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.to_owned(),
        raw_input_contents: inputs.iter().map(|input| input.data.clone()).collect(),
        inputs: inputs.iter().map(describe).collect(),
        ..Default::default()
    }
}

/// An input without its elements.
pub fn describe(tensor: &Tensor) -> InferInputTensor {
    InferInputTensor {
        name: tensor.name.clone(),
        datatype: tensor.datatype.to_string(),
        shape: tensor.shape.iter().map(|&length| length.cast_signed() as i64).collect(),
        ..Default::default()
    }
}

/// The input of a model with floats.
pub fn floats(values: &[f32]) -> Tensor {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor { name: "x".to_owned(), datatype: Datatype::Fp32, shape: vec![values.len()], data: Bytes::from(data) }
}

pub fn parameters<const N: usize>(choices: [(&str, ParameterChoice); N]) -> BTreeMap<String, InferParameter> {
    let parameter = |choice| InferParameter { parameter_choice: Some(choice) };
    choices.into_iter().map(|(name, choice)| (name.to_owned(), parameter(choice))).collect()
}

/// Waits until something is so, or fails.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..500 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within 5 s");
}
