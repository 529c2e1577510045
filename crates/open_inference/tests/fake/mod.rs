//! Server for tests of the transports. Its models return their inputs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use open_inference::{
    CacheLookup, ContentType, Datatype, Error, InferRequest, Inference, InferenceServer, ModelIndex, ModelMetadata,
    ModelState, Provenance, Statistics, Task, Tensor, TensorMetadata, Timing,
};

/// The server, with a record of its calls.
#[derive(Clone, Default)]
pub struct Fake {
    pub statistics: Statistics,
    /// The last inference request.
    pub last_request: Arc<Mutex<Option<InferRequest>>>,
    /// Loads and unloads.
    pub repository_calls: Arc<Mutex<Vec<String>>>,
}

fn tensor(name: &str, datatype: Datatype, shape: &[i64]) -> TensorMetadata {
    TensorMetadata::new(name, datatype, shape)
}

fn content(content_type: ContentType, mut tensor: TensorMetadata) -> TensorMetadata {
    tensor.parameters.content_type = Some(content_type);
    tensor
}

fn empty(mut tensor: TensorMetadata) -> TensorMetadata {
    tensor.parameters.allow_empty = true;
    tensor
}

fn model(name: &str, version: &str, inputs: Vec<TensorMetadata>, outputs: Vec<TensorMetadata>) -> ModelMetadata {
    let (name, version) = (name.to_owned(), version.to_owned());
    ModelMetadata {
        name,
        version,
        inputs,
        outputs,
        max_batch_size: 0,
        platform: open_inference::Platform::default(),
        batching: None,
        not_cached: None,
    }
}

/// * `echo` (1 and 2): returns `x` FP32 `[-1, 2]` as `y`.
/// * `any_<datatype>`: `x` with three dynamic axes; `eight_<datatype>`: eight; `scalar_<datatype>`: none.
/// * `two`: returns `a` INT64 `[-1]` and `b` BYTES `[-1]` as `c` and `d`.
/// * `image`: one image input; returns `classes` with labels, and `mask`, an image.
/// * `table`: one input FP32 `[-1, 3]`; `columns`: `age` FP32 `[-1, 1]`, `town` BYTES `[-1, 1]`.
/// * `marked`: returns `b` BYTES `[-1]`, base64 by its settings, as `d`, which is base64 as well.
/// * `dates`: `t` INT64 `[-1]`.
/// * `words`: BYTES that the settings wrongly declare as an image.
/// * `slow`: never responds. `loading`: not ready yet.
fn models() -> Vec<ModelMetadata> {
    use Datatype::{Bytes, Fp32, Int64, Uint8};
    let echo = |version| model("echo", version, vec![tensor("x", Fp32, &[-1, 2])], vec![tensor("y", Fp32, &[-1, 2])]);
    let mut classes = tensor("classes", Fp32, &[-1, 3]);
    classes.parameters.task = Some(Task::Classification);
    classes.parameters.labels = ["cat", "dog", "owl"].map(str::to_owned).into();
    let mut mask = tensor("mask", Uint8, &[-1, 2, 2]);
    mask.parameters.task = Some(Task::Image);
    let mut models = vec![
        echo("1"),
        echo("2"),
        model(
            "two",
            "1",
            vec![tensor("a", Int64, &[-1]), tensor("b", Bytes, &[-1])],
            vec![tensor("c", Int64, &[-1]), tensor("d", Bytes, &[-1])],
        ),
        model(
            "image",
            "1",
            vec![content(ContentType::Image, tensor("p", Fp32, &[-1, 2, 2, 1]))],
            vec![classes, mask.clone()],
        ),
        model("table", "1", vec![tensor("X", Fp32, &[-1, 3])], vec![tensor("y", Fp32, &[-1, 3])]),
        model(
            "columns",
            "1",
            vec![tensor("age", Fp32, &[-1, 1]), tensor("town", Bytes, &[-1, 1])],
            vec![tensor("a", Fp32, &[-1, 1]), tensor("t", Bytes, &[-1, 1])],
        ),
        model(
            "marked",
            "1",
            vec![content(ContentType::Base64, tensor("b", Bytes, &[-1]))],
            vec![content(ContentType::Base64, tensor("d", Bytes, &[-1]))],
        ),
        model("dates", "1", vec![tensor("t", Int64, &[-1])], vec![tensor("u", Int64, &[-1])]),
        model(
            "words",
            "1",
            vec![tensor("x", Bytes, &[-1, -1, -1])],
            vec![TensorMetadata { parameters: mask.parameters.clone(), ..tensor("y", Bytes, &[-1, -1, -1]) }],
        ),
        model("slow", "1", vec![tensor("x", Fp32, &[-1])], vec![tensor("y", Fp32, &[-1])]),
    ];
    for datatype in Datatype::ALL {
        let lower = datatype.name().to_lowercase();
        for (kind, lengths) in [("any", &[-1; 3][..]), ("eight", &[-1; 8])] {
            models.push(model(
                &format!("{kind}_{lower}"),
                "1",
                vec![empty(tensor("x", datatype, lengths))],
                vec![tensor("y", datatype, lengths)],
            ));
        }
        let scalar = |name| vec![tensor(name, datatype, &[])];
        models.push(model(&format!("scalar_{lower}"), "1", scalar("x"), scalar("y")));
    }
    models
}

impl InferenceServer for Fake {
    fn is_ready(&self) -> bool {
        self.repository_calls.lock().unwrap().last().is_none_or(|last| last != "unload echo")
    }

    fn models(&self) -> Vec<Arc<ModelMetadata>> {
        models().into_iter().map(Arc::new).collect()
    }

    fn versions(&self, name: &str) -> Vec<String> {
        models().into_iter().filter(|model| model.name == name).map(|model| model.version).collect()
    }

    fn model(&self, name: &str, version: Option<&str>) -> Result<Arc<ModelMetadata>, Error> {
        if name == "loading" {
            return Err(Error::new(StatusCode::SERVICE_UNAVAILABLE, "model \"loading\" is being read"));
        }
        let of_name: Vec<_> = self.models().into_iter().filter(|model| model.name == name).collect();
        let unknown = || Error::new(StatusCode::NOT_FOUND, format!("there is no model {name:?}"));
        let last = of_name.last().cloned().ok_or_else(unknown)?;
        let Some(version) = version else { return Ok(last) };
        of_name.into_iter().find(|model| model.version == version).ok_or_else(|| {
            Error::new(StatusCode::NOT_FOUND, format!("there is no version {version:?} of model {name:?}"))
        })
    }

    fn is_model_ready(&self, name: &str, version: Option<&str>) -> Result<bool, Error> {
        if name == "loading" { Ok(false) } else { self.model(name, version).map(|_| true) }
    }

    async fn infer(&self, request: InferRequest) -> Result<Inference, Error> {
        let model = self.model(&request.model, request.version.as_deref())?;
        *self.last_request.lock().unwrap() = Some(request.clone());
        if model.name == "slow" {
            std::future::pending::<()>().await;
        }
        let rows = request.inputs[0].rows().unwrap_or(1);
        let outputs = if model.name == "image" {
            let classes: Vec<f32> = [0.25, 0.5, 0.125].repeat(rows);
            let mask: Vec<f32> = [0.0, 255.0, 128.0, 7.0].repeat(rows);
            vec![
                Tensor::from_f32("classes", Datatype::Fp32, vec![rows, 3], &classes).unwrap(),
                Tensor::from_f32("mask", Datatype::Uint8, vec![rows, 2, 2], &mask).unwrap(),
            ]
        } else {
            let of_input = |name: &str| request.inputs.iter().find(|input| input.name == name).cloned().unwrap();
            let pairs = model.inputs.iter().zip(&model.outputs);
            pairs.map(|(input, output)| Tensor { name: output.name.clone(), ..of_input(&input.name) }).collect()
        };
        let timing_ms = Timing { decode: 0.5, queue: 0.25, infer: 2.0 };
        let second = Duration::from_secs(1);
        let (name, version) = (model.name.clone(), model.version.clone());
        self.statistics.record_success(&name, &version, rows as u64, &timing_ms, second, Some(CacheLookup::Miss));
        let provenance = Provenance { model_digest: "sha256:abc".to_owned(), device: "cpu".to_owned(), timing_ms };
        let mut headers = HeaderMap::new();
        headers.insert("etag", HeaderValue::from_static("\"key\""));
        headers.insert("cache-status", HeaderValue::from_static("mlserve; hit"));
        Ok(Inference { model: name, version, outputs, provenance, headers })
    }

    fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    async fn repository_index(&self) -> Result<Vec<ModelIndex>, Error> {
        let state = |name: &str, state, reason: &str| ModelIndex {
            name: name.to_owned(),
            version: "1".to_owned(),
            state,
            reason: reason.to_owned(),
            batching: None,
        };
        let broken = state("broken", ModelState::Unavailable, "model.onnx is not a graph");
        Ok(vec![state("echo", ModelState::Ready, ""), broken])
    }

    async fn load(&self, model: &str, _: &HeaderMap) -> Result<(), Error> {
        if model == "broken" {
            return Err(Error::unprocessable("model.onnx is not a graph"));
        }
        self.model(model, None)?;
        self.repository_calls.lock().unwrap().push(format!("load {model}"));
        Ok(())
    }

    async fn unload(&self, model: &str, _: &HeaderMap) -> Result<(), Error> {
        self.model(model, None)?;
        self.repository_calls.lock().unwrap().push(format!("unload {model}"));
        Ok(())
    }
}
