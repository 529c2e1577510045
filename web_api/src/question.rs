//! What is asked, in the one form that every route brings it to, and the keys that it is remembered under.

use bytes::Bytes;
use contract::ModelDescription;
use db_api::keys::{AnswerKey, Input, InputDigest};
use open_inference::{
    ContentType, Datatype, Inference, NotCached, Platform, Tensor, TensorMetadata, gives_optional, image_settings,
    only_required,
};

use crate::catalog::Listed;
use crate::error::Error;
use crate::settings::AppType;
use crate::steering::Uncached;

/// Batches with more rows are remembered as a whole: each row costs a look-up and a kilobyte of book-keeping, and nobody
/// sends so many to have a few of them found.
const MAX_ROWS: usize = 4096;

/// Tensors, one of which may be pictures, for a model version.
pub struct Question {
    app_type: AppType,
    model: Listed,
    /// Whether the version was asked for by name. If it was not, another one may answer.
    version_is_named: bool,
    asked: Asked,
    input: InputDigest,
    key: AnswerKey,
    rows: Vec<Row>,
    count: u64,
}

/// What is asked, as it came: a picture that is known is never made a tensor.
enum Asked {
    Tensors(Vec<Tensor>),
    Picture(Bytes),
}

/// One row of a batch: a question of its own, with the key that it has when it is asked alone.
#[derive(Clone)]
pub struct Row {
    /// Each with a first axis of length 1.
    pub inputs: Vec<Tensor>,
    /// Its key with the digest that the model has now.
    pub key: AnswerKey,
    input: InputDigest,
}

impl Question {
    /// Reads all of `inputs`.
    pub fn new(app_type: AppType, model: Listed, version_is_named: bool, inputs: Vec<Tensor>) -> Self {
        let input = digest(&model, &inputs);
        let rows = common_rows(&model, &inputs);
        let key_of = |input| AnswerKey::new(app_type.as_str(), &model.name, &model.version, &model.digest, input);
        let by_rows = model.independent_rows && uncached(&model).is_none();
        let split = |&rows: &usize| by_rows && (2..=MAX_ROWS).contains(&rows);
        let rows_of_it = rows.filter(split).map_or_else(Vec::new, |rows| {
            let mut columns: Vec<_> = inputs.iter().map(|tensor| tensor.split_rows().into_iter()).collect();
            let next = |_| {
                let inputs: Vec<_> = columns.iter_mut().filter_map(Iterator::next).collect();
                let input = digest(&model, &inputs);
                Row { key: key_of(input), input, inputs }
            };
            (0..rows).map(next).collect()
        });
        let (key, count) = (key_of(input), rows.unwrap_or(1).max(1) as u64);
        Self { app_type, version_is_named, asked: Asked::Tensors(inputs), input, key, rows: rows_of_it, count, model }
    }

    /// `image` for the default version of `model`, whose only input must take pictures. Reads all of it.
    pub fn of_picture(app_type: AppType, model: Listed, image: Bytes) -> Result<Self, Error> {
        if picture_input(&model).is_none() {
            let name = model.name.clone();
            return Err(match image_settings(&name, &model.inputs) {
                Some(remedy) => Error::NoImageSettings { model: name, remedy },
                None => Error::NoPictures(name),
            });
        }
        let input = Input::Image(&image).into();
        let key = AnswerKey::new(app_type.as_str(), &model.name, &model.version, &model.digest, input);
        let asked = Asked::Picture(image);
        Ok(Self { app_type, model, version_is_named: false, asked, input, key, rows: Vec::new(), count: 1 })
    }

    /// The model it is asked of.
    pub fn model(&self) -> &ModelDescription {
        &self.model
    }

    /// Why its result is neither looked up nor stored; `None` where it is cached.
    pub fn uncached(&self) -> Option<Uncached> {
        uncached(&self.model)
    }

    /// The version to be asked; `None` for whichever is the default one by then.
    pub fn version(&self) -> Option<&str> {
        self.version_is_named.then_some(&self.model.version)
    }

    /// What the model is to be asked.
    pub fn inputs(&self) -> Vec<Tensor> {
        match &self.asked {
            Asked::Tensors(tensors) => tensors.clone(),
            Asked::Picture(image) => {
                let name = picture_input(&self.model).map_or("", |input| &input.name);
                vec![Tensor::from_strings(name, vec![1], [&image[..]])]
            }
        }
    }

    /// Bytes that [`Self::inputs`] copies.
    pub fn copied_bytes(&self) -> usize {
        if let Asked::Picture(image) = &self.asked { image.len() } else { 0 }
    }

    /// Its key with the digest that the model has now.
    pub fn key(&self) -> AnswerKey {
        self.key
    }

    /// The rows of a batch whose rows are remembered one by one; none when it is remembered as a whole.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// How many rows it has: 1 where the model has no batch axis.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The key that `inference`, an answer to it, belongs under: that of the model that really gave it.
    pub fn key_of(&self, inference: &Inference) -> AnswerKey {
        self.key_with(self.input, inference)
    }

    /// [`Self::key_of`] for one of its rows.
    pub fn key_of_row(&self, row: &Row, inference: &Inference) -> AnswerKey {
        self.key_with(row.input, inference)
    }

    /// The entity tag of its answer: the key, since the same question always has the same answer.
    pub fn etag(&self) -> String {
        self.key.etag()
    }

    fn key_with(&self, input: InputDigest, inference: &Inference) -> AnswerKey {
        let digest = &inference.provenance.model_digest;
        AnswerKey::new(self.app_type.as_str(), &self.model.name, &inference.version, digest, input)
    }
}

fn uncached(model: &ModelDescription) -> Option<Uncached> {
    match model.not_cached {
        Some(NotCached::Random) => Some(Uncached::Random),
        Some(NotCached::Settings) => Some(Uncached::Settings),
        None => (model.digest.is_empty() && model.platform == Platform::Queue).then_some(Uncached::NoDigest),
    }
}

/// One picture is the same question whether it came as a file, in a form, or as an element of a tensor.
fn digest(model: &ModelDescription, inputs: &[Tensor]) -> InputDigest {
    if let ([tensor], Some(_)) = (inputs, picture_input(model))
        && tensor.datatype == Datatype::Bytes
        && tensor.len() == 1
        && let Some(picture) = tensor.strings().next()
    {
        return Input::Image(&picture).into();
    }
    Input::Tensors(inputs).into()
}

/// The input of a model that needs only one, and takes pictures for it. A pipeline whose steps have no tensor in common takes nothing
/// else.
fn picture_input(model: &ModelDescription) -> Option<&TensorMetadata> {
    let input = only_required(&model.inputs)?;
    let is_for_steps = model.pipeline.is_some() && input.parameters.content_type == Some(ContentType::Image);
    (input.takes_images() || is_for_steps).then_some(input)
}

/// The length of the first axis, where all inputs have it and the graph leaves it open. `None` where an optional input is
/// given.
fn common_rows(model: &ModelDescription, inputs: &[Tensor]) -> Option<usize> {
    let rows = inputs.first()?.rows()?;
    let is_open = |input: &TensorMetadata| input.parameters.optional || input.shape.first() == Some(&-1);
    let is_batch = model.inputs.iter().all(is_open) && !gives_optional(inputs, &model.inputs);
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

    fn ask(model: &ModelDescription, inputs: Vec<Tensor>) -> Question {
        Question::new(AppType::Cli, model.clone().into(), false, inputs)
    }

    fn numbers(rows: &[[f32; 2]]) -> Tensor {
        Tensor::from_f32("x", Datatype::Fp32, vec![rows.len(), 2], rows.as_flattened()).unwrap()
    }

    #[test]
    fn a_row_has_the_key_that_it_has_alone() {
        let model = model(Datatype::Fp32, &[-1, 2]);
        let batch = ask(&model, vec![numbers(&[[1., 2.], [3., 4.]])]);
        assert_eq!((batch.rows().len(), batch.count()), (2, 2));
        let alone = ask(&model, vec![numbers(&[[3., 4.]])]);
        assert_eq!(batch.rows()[1].key, alone.key());
        assert!(alone.rows().is_empty());
        let pictures = Tensor::from_strings("x", vec![2], [&b"cat"[..], b"dog"]);
        let batch = ask(&model, vec![pictures]);
        let picture = Question::of_picture(AppType::Cli, model.into(), Bytes::from_static(b"dog")).unwrap();
        assert_eq!(batch.rows()[1].key, picture.key());
        assert_eq!(batch.rows()[1].inputs, picture.inputs());
    }

    #[test]
    fn what_is_no_batch_of_independent_rows_is_remembered_as_a_whole() {
        let fixed = ask(&model(Datatype::Fp32, &[2, 2]), vec![numbers(&[[1., 2.], [3., 4.]])]);
        assert_eq!((fixed.rows().len(), fixed.count()), (0, 1));
        let dependent = ModelDescription { independent_rows: false, ..model(Datatype::Fp32, &[-1, 2]) };
        let batch = ask(&dependent, vec![numbers(&[[1., 2.], [3., 4.]])]);
        assert_eq!((batch.rows().len(), batch.count()), (0, 2));
        let many = ask(&model(Datatype::Fp32, &[-1, 2]), vec![numbers(&[[0., 0.]; MAX_ROWS + 1])]);
        assert!(many.rows().is_empty());
    }

    #[test]
    fn a_request_that_gives_an_optional_input_is_no_batch_and_has_a_key_of_its_own() {
        let mut model = model(Datatype::Fp32, &[-1, 2]);
        model.inputs.push(TensorMetadata::new("gain", Datatype::Fp32, &[-1]));
        model.inputs[1].parameters.optional = true;
        let x = || numbers(&[[1., 2.], [3., 4.]]);
        let gain = Tensor::from_f32("gain", Datatype::Fp32, vec![2], &[5., 6.]).unwrap();
        let (without, with) = (ask(&model, vec![x()]), ask(&model, vec![x(), gain]));
        assert_eq!((without.rows().len(), with.rows().len()), (2, 0));
        assert_ne!(without.key(), with.key());
        let picture = Question::of_picture(AppType::Cli, model.into(), Bytes::from_static(b"cat"));
        assert_eq!(picture.unwrap().inputs()[0].name, "x", "it needs one image alone");
    }

    #[test]
    fn a_picture_for_a_model_without_image_settings_is_refused_with_those_to_write() {
        let mut model = model(Datatype::Fp32, &[-1, 3, 32, 32]);
        model.inputs[0].parameters.content_type = None;
        let refused = Question::of_picture(AppType::Cli, model.into(), Bytes::from_static(b"cat")).err().unwrap();
        let words = refused.to_string();
        assert!(words.starts_with("m does not take a picture yet. If its input \"x\""), "{words}");
        assert!(words.contains("m/model-settings.json"), "{words}");
    }

    #[test]
    fn a_model_of_strings_takes_no_pictures() {
        let model = model(Datatype::Bytes, &[-1]);
        let picture = Bytes::from_static(b"cat");
        assert!(Question::of_picture(AppType::Cli, model.clone().into(), picture).is_err());
        let strings = vec![Tensor::from_strings("x", vec![1], [&b"cat"[..]])];
        let tensors = AnswerKey::new("cli", "m", "1", "", Input::Tensors(&strings));
        assert_eq!(ask(&model, strings).key(), tensors);
    }
}
