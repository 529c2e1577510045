//! Prediction request in the form that all routes translate to, with its cache keys.

use bytes::Bytes;
use contract::ModelDescription;
use db_api::cache::{CacheKey, InputDigest, KeyInput};
use open_inference::{
    ContentType, Datatype, Inference, NotCached, Platform, Tensor, TensorMetadata, has_optional_input,
    image_settings_hint, only_required_input,
};

use crate::cache_control::UncachedReason;
use crate::error::Error;
use crate::settings::AppType;
use crate::upstream::catalog::CatalogEntry;

/// Batches with more rows are cached as a whole: each row costs a lookup and a kilobyte of metadata, and large batches rarely have
/// cached rows.
const MAX_CACHED_ROWS: usize = 4096;

/// Inputs for a model version, which may include encoded images.
pub struct PredictionRequest {
    app_type: AppType,
    model: CatalogEntry,
    /// Whether the client named the version. If not, another version may serve the request.
    version_is_named: bool,
    input: RequestInput,
    input_digest: InputDigest,
    key: CacheKey,
    rows: Vec<RequestRow>,
    row_count: u64,
}

/// Inputs as they were received. An image is converted to a tensor only if the model has to run.
enum RequestInput {
    Tensors(Vec<Tensor>),
    EncodedImage(Bytes),
}

/// A row of a batch, with the key of a request with this row alone.
#[derive(Clone)]
pub struct RequestRow {
    /// Each has a first axis of length 1.
    pub inputs: Vec<Tensor>,
    /// Cache key with the current digest of the model.
    pub key: CacheKey,
    input_digest: InputDigest,
}

impl PredictionRequest {
    /// Builds a request from tensors. Hashes the inputs.
    pub fn new(app_type: AppType, model: CatalogEntry, version_is_named: bool, inputs: Vec<Tensor>) -> Self {
        let input_digest = digest(&model, &inputs);
        let rows = common_rows(&model, &inputs);
        let key_of = |digest| CacheKey::new(app_type.as_str(), &model.name, &model.version, &model.digest, digest);
        let is_cached_by_row = model.independent_rows && uncached(&model).is_none();
        let is_split = |&rows: &usize| is_cached_by_row && (2..=MAX_CACHED_ROWS).contains(&rows);
        let request_rows = rows.filter(is_split).map_or_else(Vec::new, |rows| {
            let mut columns: Vec<_> = inputs.iter().map(|tensor| tensor.split_rows().into_iter()).collect();
            let next = |_| {
                let inputs: Vec<_> = columns.iter_mut().filter_map(Iterator::next).collect();
                let input_digest = digest(&model, &inputs);
                RequestRow { key: key_of(input_digest), input_digest, inputs }
            };
            (0..rows).map(next).collect()
        });
        let (key, row_count) = (key_of(input_digest), rows.unwrap_or(1).max(1) as u64);
        let (input, rows) = (RequestInput::Tensors(inputs), request_rows);
        Self { app_type, model, version_is_named, input, input_digest, key, rows, row_count }
    }

    /// Builds a request from an encoded image for the default version of `model`, whose only input must accept images. Hashes the
    /// image.
    pub fn from_image(app_type: AppType, model: CatalogEntry, image: Bytes) -> Result<Self, Error> {
        if image_input(&model).is_none() {
            let name = model.name.clone();
            return Err(match image_settings_hint(&name, &model.inputs) {
                Some(remedy) => Error::ImageSettingsMissing { model: name, remedy },
                None => Error::ImageNotAccepted(name),
            });
        }
        let input_digest = KeyInput::Image(&image).into();
        let key = CacheKey::new(app_type.as_str(), &model.name, &model.version, &model.digest, input_digest);
        let (input, rows) = (RequestInput::EncodedImage(image), Vec::new());
        Ok(Self { app_type, model, version_is_named: false, input, input_digest, key, rows, row_count: 1 })
    }

    /// The model that serves the request.
    pub fn model(&self) -> &ModelDescription {
        &self.model
    }

    /// Why its result is neither looked up nor stored; `None` if it is cached.
    pub fn uncached(&self) -> Option<UncachedReason> {
        uncached(&self.model)
    }

    /// The version that must serve the request; `None` for the default version at that time.
    pub fn version(&self) -> Option<&str> {
        self.version_is_named.then_some(&self.model.version)
    }

    /// Inputs of the model.
    pub fn inputs(&self) -> Vec<Tensor> {
        match &self.input {
            RequestInput::Tensors(tensors) => tensors.clone(),
            RequestInput::EncodedImage(image) => {
                let name = image_input(&self.model).map_or("", |input| &input.name);
                vec![Tensor::from_strings(name, vec![1], [&image[..]])]
            }
        }
    }

    /// Bytes that [`Self::inputs`] copies.
    pub fn copied_bytes(&self) -> usize {
        if let RequestInput::EncodedImage(image) = &self.input { image.len() } else { 0 }
    }

    /// Cache key with the current digest of the model.
    pub fn key(&self) -> CacheKey {
        self.key
    }

    /// Rows that are cached individually; empty if the request is cached as a whole.
    pub fn rows(&self) -> &[RequestRow] {
        &self.rows
    }

    /// Number of rows; 1 if the model has no batch axis.
    pub fn row_count(&self) -> u64 {
        self.row_count
    }

    /// Cache key of the result `inference`: version and digest are those of the model that computed it.
    pub fn key_of(&self, inference: &Inference) -> CacheKey {
        self.key_with(self.input_digest, inference)
    }

    /// [`Self::key_of`] for one of its rows.
    pub fn key_of_row(&self, row: &RequestRow, inference: &Inference) -> CacheKey {
        self.key_with(row.input_digest, inference)
    }

    /// Entity tag of the result. It is the cache key, because the same request always has the same result.
    pub fn etag(&self) -> String {
        self.key.etag()
    }

    fn key_with(&self, input_digest: InputDigest, inference: &Inference) -> CacheKey {
        let digest = &inference.provenance.model_digest;
        CacheKey::new(self.app_type.as_str(), &self.model.name, &inference.version, digest, input_digest)
    }
}

fn uncached(model: &ModelDescription) -> Option<UncachedReason> {
    match model.not_cached {
        Some(NotCached::Random) => Some(UncachedReason::Random),
        Some(NotCached::Settings) => Some(UncachedReason::Settings),
        None => (model.digest.is_empty() && model.platform == Platform::Queue).then_some(UncachedReason::NoDigest),
    }
}

/// An image has the same digest as a file, as a form field, and as an element of a tensor.
fn digest(model: &ModelDescription, inputs: &[Tensor]) -> InputDigest {
    if let ([tensor], Some(_)) = (inputs, image_input(model))
        && tensor.datatype == Datatype::Bytes
        && tensor.len() == 1
        && let Some(image) = tensor.strings().next()
    {
        return KeyInput::Image(&image).into();
    }
    KeyInput::Tensors(inputs).into()
}

/// The only required input of a model, if it accepts images. The input of a pipeline whose steps share no tensor accepts
/// images only.
fn image_input(model: &ModelDescription) -> Option<&TensorMetadata> {
    let input = only_required_input(&model.inputs)?;
    let is_for_steps = model.pipeline.is_some() && input.parameters.content_type == Some(ContentType::Image);
    (input.accepts_images() || is_for_steps).then_some(input)
}

/// Length of the first axis, if all inputs share it and the graph leaves it open. `None` if an optional input is given.
fn common_rows(model: &ModelDescription, inputs: &[Tensor]) -> Option<usize> {
    let rows = inputs.first()?.rows()?;
    let is_open = |input: &TensorMetadata| input.parameters.optional || input.shape.first() == Some(&-1);
    let is_batch = model.inputs.iter().all(is_open) && !has_optional_input(inputs, &model.inputs);
    (is_batch && inputs.iter().all(|tensor| tensor.rows() == Some(rows))).then_some(rows)
}

#[cfg(test)]
mod tests {
    use open_inference::ModelState;

    use super::*;

    fn model(datatype: Datatype, shape: &[i64]) -> ModelDescription {
        let mut input = TensorMetadata::new("x", datatype, shape);
        input.parameters.content_type = Some(ContentType::Image);
        ModelDescription {
            inputs: vec![input],
            independent_rows: true,
            ..ModelDescription::placeholder("m", "1", ModelState::Ready, None)
        }
    }

    fn request(model: &ModelDescription, inputs: Vec<Tensor>) -> PredictionRequest {
        PredictionRequest::new(AppType::Cli, model.clone().into(), false, inputs)
    }

    fn numbers(rows: &[[f32; 2]]) -> Tensor {
        Tensor::from_f32("x", Datatype::Fp32, vec![rows.len(), 2], rows.as_flattened()).unwrap()
    }

    #[test]
    fn a_row_has_the_key_of_a_request_with_this_row_alone() {
        let model = model(Datatype::Fp32, &[-1, 2]);
        let batch = request(&model, vec![numbers(&[[1., 2.], [3., 4.]])]);
        assert_eq!((batch.rows().len(), batch.row_count()), (2, 2));
        let alone = request(&model, vec![numbers(&[[3., 4.]])]);
        assert_eq!(batch.rows()[1].key, alone.key());
        assert!(alone.rows().is_empty());
        let images = Tensor::from_strings("x", vec![2], [&b"cat"[..], b"dog"]);
        let batch = request(&model, vec![images]);
        let image = PredictionRequest::from_image(AppType::Cli, model.into(), Bytes::from_static(b"dog")).unwrap();
        assert_eq!(batch.rows()[1].key, image.key());
        assert_eq!(batch.rows()[1].inputs, image.inputs());
    }

    #[test]
    fn a_request_that_is_not_a_batch_of_independent_rows_is_cached_as_a_whole() {
        let fixed = request(&model(Datatype::Fp32, &[2, 2]), vec![numbers(&[[1., 2.], [3., 4.]])]);
        assert_eq!((fixed.rows().len(), fixed.row_count()), (0, 1));
        let dependent = ModelDescription { independent_rows: false, ..model(Datatype::Fp32, &[-1, 2]) };
        let batch = request(&dependent, vec![numbers(&[[1., 2.], [3., 4.]])]);
        assert_eq!((batch.rows().len(), batch.row_count()), (0, 2));
        let many = request(&model(Datatype::Fp32, &[-1, 2]), vec![numbers(&[[0., 0.]; MAX_CACHED_ROWS + 1])]);
        assert!(many.rows().is_empty());
    }

    #[test]
    fn a_request_with_an_optional_input_is_not_a_batch_and_has_its_own_key() {
        let mut model = model(Datatype::Fp32, &[-1, 2]);
        model.inputs.push(TensorMetadata::new("gain", Datatype::Fp32, &[-1]));
        model.inputs[1].parameters.optional = true;
        let x = || numbers(&[[1., 2.], [3., 4.]]);
        let gain = Tensor::from_f32("gain", Datatype::Fp32, vec![2], &[5., 6.]).unwrap();
        let (without, with) = (request(&model, vec![x()]), request(&model, vec![x(), gain]));
        assert_eq!((without.rows().len(), with.rows().len()), (2, 0));
        assert_ne!(without.key(), with.key());
        let image = PredictionRequest::from_image(AppType::Cli, model.into(), Bytes::from_static(b"cat"));
        assert_eq!(image.unwrap().inputs()[0].name, "x", "only the image is required");
    }

    #[test]
    fn an_image_for_a_model_without_image_settings_is_rejected_with_the_settings_to_add() {
        let mut model = model(Datatype::Fp32, &[-1, 3, 32, 32]);
        model.inputs[0].parameters.content_type = None;
        let error =
            PredictionRequest::from_image(AppType::Cli, model.into(), Bytes::from_static(b"cat")).err().unwrap();
        let message = error.to_string();
        assert!(message.starts_with("m does not accept an image yet. If its input \"x\""), "{message}");
        assert!(message.contains("m/model-settings.json"), "{message}");
    }

    #[test]
    fn a_model_with_a_string_input_accepts_no_images() {
        let model = model(Datatype::Bytes, &[-1]);
        let image = Bytes::from_static(b"cat");
        assert!(PredictionRequest::from_image(AppType::Cli, model.clone().into(), image).is_err());
        let strings = vec![Tensor::from_strings("x", vec![1], [&b"cat"[..]])];
        let tensors = CacheKey::new("cli", "m", "1", "", KeyInput::Tensors(&strings));
        assert_eq!(request(&model, strings).key(), tensors);
    }
}
