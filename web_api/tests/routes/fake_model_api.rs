//! Fake `model_api`: counts its runs, and returns the outputs that a test specifies.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use contract::{Device, ImageInput, ModelDescription, ModelList, Pipeline, Unselected};
use http::{HeaderMap, StatusCode};
use open_inference::{
    Activation, ContentType, Datatype, Error, InferRequest, Inference, InferenceServer, ModelIndex, ModelMetadata,
    ModelState, Provenance, Statistics, Tensor, TensorMetadata, Timing, rest,
};
use serde_json::json;
use service::body_limits::BodyReader;
use service::settings::ServerSettings;
use tokio::time::sleep;

/// Each model has an input `image` of any number of 2×2 images. It returns classes for each row, and an `echo` of the first number,
/// which for an encoded image is the length of the file.
#[derive(Clone, Default)]
pub struct FakeModelApi {
    pub models: Arc<Mutex<Vec<ModelDescription>>>,
    /// Outputs by model name, which replace the default ones.
    pub outputs: Arc<Mutex<BTreeMap<String, Vec<Tensor>>>>,
    /// Number of inference requests.
    pub runs: Arc<AtomicUsize>,
    /// Number of rows of all requests.
    pub rows: Arc<AtomicUsize>,
    /// Headers of the last request to load or unload a model.
    pub repository_headers: Arc<Mutex<HeaderMap>>,
    statistics: Statistics,
}

pub fn model(name: &str) -> ModelDescription {
    let mut input = TensorMetadata::new("image", Datatype::Fp32, &[-1, 2, 2, 1]);
    input.parameters.content_type = Some(ContentType::Image);
    let mut output = TensorMetadata::new("probabilities", Datatype::Fp32, &[-1, 3]);
    output.parameters.labels = ["zero", "one", "</script>"].map(str::to_owned).to_vec();
    output.parameters.activation = Some(Activation::None);
    ModelDescription {
        title: format!("Title of {name}"),
        notice: (name == "medical").then(|| "Not for clinical use.".to_owned()),
        digest: format!("sha256:{name}"),
        device: Some(Device { name: "cpu".to_owned(), fallback_reason: None, runtime: "1.31.1".to_owned() }),
        inputs: vec![input],
        outputs: vec![output, TensorMetadata::new("echo", Datatype::Fp32, &[-1, 1])],
        image: (name != "table").then(|| ImageInput {
            width: 2,
            height: 2,
            color: "gray".to_owned(),
            fit: "digit".to_owned(),
        }),
        independent_rows: name != "whole",
        ..ModelDescription::placeholder(name, "1", ModelState::Ready, None)
    }
}

/// Describes a pipeline of the steps `cut` and `read`.
pub fn pipeline(name: &str, settings_digest: &str, steps: &[&ModelDescription; 2]) -> ModelDescription {
    let [cut, read] = steps;
    let pipeline: Pipeline = serde_json::from_value(json!({
        "settings_digest": settings_digest,
        "steps": [
            { "name": "find", "model": cut.name, "inputs": [{ "name": "image", "from": "picture" }] },
            { "name": "read", "model": read.name, "inputs": [{ "name": "image", "from": "find.crops" }] },
        ],
        "outputs": [{ "name": "classes", "from": "read.probabilities" }, { "name": "crops", "from": "find.crops" }],
    }))
    .unwrap();
    let renamed = |name: &str, tensor: &TensorMetadata| TensorMetadata { name: name.to_owned(), ..tensor.clone() };
    ModelDescription {
        digest: pipeline.digest([&*cut.digest, &*read.digest]),
        inputs: vec![renamed("picture", &cut.inputs[0])],
        outputs: vec![renamed("classes", &read.outputs[0]), renamed("crops", &cut.outputs[0])],
        pipeline: Some(pipeline),
        independent_rows: false,
        ..model(name)
    }
}

/// Model that returns crops, all different: for an image, one per byte of the file; for a tensor, as many as its first number.
pub fn cutter() -> ModelDescription {
    ModelDescription {
        outputs: vec![TensorMetadata::new("crops", Datatype::Fp32, &[-1, 2, 2, 1])],
        independent_rows: false,
        ..model("cut")
    }
}

impl FakeModelApi {
    pub fn serving(models: Vec<ModelDescription>) -> Self {
        Self { models: Arc::new(Mutex::new(models)), ..Self::default() }
    }

    pub fn router(self, settings: &ServerSettings) -> Router {
        let list = async |State(fake): State<Self>| {
            let models = fake.models.lock().unwrap().clone();
            Json(ModelList { ready: !models.is_empty(), models, unselected: Unselected::default() })
        };
        Router::new()
            .route("/models", get(list))
            .route("/input/{model}", post(|| async { b"\x89PNG preview".to_vec() }))
            .with_state(self.clone())
            .merge(rest::router(self, BodyReader::new(settings)))
    }

    fn find(&self, name: &str, version: Option<&str>) -> Result<ModelDescription, Error> {
        let is = |model: &&ModelDescription| {
            model.name == name && version.map_or(model.is_default, |version| version == model.version)
        };
        let missing = || Error::new(StatusCode::NOT_FOUND, "no such model");
        self.models.lock().unwrap().iter().find(is).cloned().ok_or_else(missing)
    }
}

impl InferenceServer for FakeModelApi {
    fn is_ready(&self) -> bool {
        true
    }

    fn models(&self) -> Vec<Arc<ModelMetadata>> {
        Vec::new()
    }

    fn model(&self, name: &str, version: Option<&str>) -> Result<Arc<ModelMetadata>, Error> {
        self.find(name, version).map(|model| Arc::new(model.metadata()))
    }

    fn versions(&self, _: &str) -> Vec<String> {
        Vec::new()
    }

    fn is_model_ready(&self, name: &str, version: Option<&str>) -> Result<bool, Error> {
        self.find(name, version).map(|model| model.is_ready())
    }

    async fn infer(&self, request: InferRequest) -> Result<Inference, Error> {
        let model = self.find(&request.model, request.version.as_deref())?;
        let input = &request.inputs[0];
        self.runs.fetch_add(1, Ordering::SeqCst);
        self.rows.fetch_add(input.shape[0], Ordering::SeqCst);
        let echo = echo(input).await?;
        // It rejects every image except the slow one.
        if model.name == "busy" && echo != [4.0] {
            let error = Error::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "Too many requests are waiting for this model; try again shortly.",
            );
            return Err(Error { is_overload: true, ..error });
        }
        if model.name == "loading" && echo != [4.0] {
            let error = Error::new(StatusCode::SERVICE_UNAVAILABLE, "loading is not available: it is being loaded.");
            return Err(Error { retry_after_s: 9, ..error });
        }
        // Different for each row, so that a test detects swapped rows.
        let probabilities = echo.iter().flat_map(|echo| [0.25, 0.75, echo / 1e6]).collect::<Vec<_>>();
        let rows = if model.name == "liar" { 1 } else { echo.len() };
        let output = |name: &str, columns: usize, values: &[f32]| {
            Tensor::from_f32(name, Datatype::Fp32, vec![rows, columns], &values[..rows * columns]).unwrap()
        };
        let infer = if model.name == "sluggish" { 12.0 } else { 0.3 };
        let canned = self.outputs.lock().unwrap().get(&model.name).cloned();
        let outputs = if let Some(canned) = canned {
            canned
        } else if model.name == "cut" {
            let crops = (0..echo[0] as u8).map(|crop| [f32::from(crop), 0., 0., 0.]).collect::<Vec<_>>();
            vec![Tensor::from_f32("crops", Datatype::Fp32, vec![crops.len(), 2, 2, 1], crops.as_flattened()).unwrap()]
        } else {
            vec![output("probabilities", 3, &probabilities), output("echo", 1, &echo)]
        };
        Ok(Inference {
            outputs,
            model: model.name,
            version: model.version,
            provenance: Provenance {
                model_digest: model.digest,
                device: "cpu".to_owned(),
                timing_ms: Timing { decode: 0.1, queue: 0.2, infer },
            },
            headers: HeaderMap::new(),
        })
    }

    fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    async fn repository_index(&self) -> Result<Vec<ModelIndex>, Error> {
        let entry = |model: &ModelDescription| ModelIndex {
            name: model.name.clone(),
            version: model.version.clone(),
            state: model.state,
            reason: String::new(),
            batching: model.batching.clone(),
        };
        Ok(self.models.lock().unwrap().iter().map(entry).collect())
    }

    /// `garbage` is a folder without a valid model.
    async fn load(&self, name: &str, headers: &HeaderMap) -> Result<(), Error> {
        *self.repository_headers.lock().unwrap() = headers.clone();
        if name == "garbage" {
            return Err(Error::unprocessable("garbage is no model"));
        }
        self.models.lock().unwrap().push(model(name));
        Ok(())
    }

    async fn unload(&self, name: &str, headers: &HeaderMap) -> Result<(), Error> {
        *self.repository_headers.lock().unwrap() = headers.clone();
        self.models.lock().unwrap().retain(|model| model.name != name);
        Ok(())
    }
}

/// Special images: `text` cannot be decoded, `killer` crashes the model, `slow` takes long.
async fn echo(input: &Tensor) -> Result<Vec<f32>, Error> {
    if input.datatype != Datatype::Bytes {
        return Ok(input.split_rows().iter().map(|row| row.to_f32()[0]).collect());
    }
    let mut echo = Vec::new();
    for (number, image) in input.strings().enumerate() {
        match &image[..] {
            b"text" => {
                let message = format!("element {number} of image is not an image we read");
                return Err(Error::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
            }
            b"killer" => {
                let message = "The model crashed on this request.";
                return Err(Error::new(StatusCode::INTERNAL_SERVER_ERROR, message));
            }
            b"slow" => sleep(Duration::from_millis(200)).await,
            b"stuck" => sleep(Duration::from_mins(1)).await,
            _ => {}
        }
        echo.push(image.len() as f32);
    }
    Ok(echo)
}
