//! Batches of encoded images: decodes the inputs of a request into tensors.

use std::sync::Arc;

use open_inference::{Datatype, Tensor, TensorMetadata, byte_length};
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::model::Model;
use crate::preprocessing::{self, ImageError, ImageLimits, ImageSpec};
use crate::state::AppState;

/// Images within these limits are decoded inline: that takes a dozen microseconds for a digit, less than the handover to another
/// thread.
const INLINE_LIMITS: ImageLimits = ImageLimits { bytes: 4 << 10, side: 32, pixels: 32 * 32, decode_bytes: 64 << 10 };

/// Maximum number of inline images per input.
const MAX_INLINE_IMAGES: usize = 32;

/// Decodes the encoded images of all inputs: N images become one tensor of N rows. The memory of the tensors is reserved before
/// they are allocated, since a thousand images of a few bytes each can be gigabytes of pixels.
pub async fn decode_images(app: &AppState, model: &Arc<Model>, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Error> {
    let batches: Vec<_> = inputs.iter().map(|tensor| ImageBatch::from_tensor(tensor, model)).collect();
    if batches.iter().all(Option::is_none) {
        return Ok(inputs);
    }
    let limits = app.image_limits;
    let bytes: usize = batches.iter().flatten().map(|batch| batch.bytes_within(&limits)).sum::<Result<_, _>>()?;
    if batches.iter().flatten().all(ImageBatch::is_inline) {
        let reserved = app.reserve_input_bytes(bytes)?;
        if let Some(inputs) = decode_inline(&inputs, &batches, &limits) {
            return Ok(reserved.attach_all(inputs));
        }
    }
    let cancelled = CancellationToken::new();
    let _cancel_on_drop = cancelled.clone().drop_guard();
    let (model, budget) = (Arc::clone(model), app.input_budget.clone());
    let work = move || {
        // Reserved when the task runs: until then, the images are still encoded.
        let reserved = budget.try_reserve(bytes).ok_or_else(|| Error::InputBudgetExceeded(budget.bytes()))?;
        let decode = |tensor: Tensor| match ImageBatch::from_tensor(&tensor, &model) {
            Some(batch) => batch.decode(&limits, &cancelled),
            None => Ok(tensor),
        };
        Ok(reserved.attach_all(inputs.into_iter().map(decode).collect::<Result<_, Error>>()?))
    };
    app.decoder.run(work).await
}

/// `None` where the images are many, large or invalid. The pool then decodes them and reports errors.
fn decode_inline(inputs: &[Tensor], batches: &[Option<ImageBatch>], limits: &ImageLimits) -> Option<Vec<Tensor>> {
    let small = INLINE_LIMITS.min(limits);
    let decode = |(tensor, batch): (&Tensor, &Option<ImageBatch>)| match batch {
        Some(batch) if batch.is_inline() => batch.decode(&small, &CancellationToken::new()).ok(),
        Some(_) => None,
        None => Some(tensor.clone()),
    };
    inputs.iter().zip(batches).map(decode).collect()
}

/// Encoded images for one input.
struct ImageBatch<'a> {
    images: &'a Tensor,
    input: &'a TensorMetadata,
    spec: &'a ImageSpec,
}

impl<'a> ImageBatch<'a> {
    /// `None` for a tensor that needs no decoding.
    fn from_tensor(tensor: &'a Tensor, model: &'a Model) -> Option<Self> {
        if tensor.datatype != Datatype::Bytes {
            return None;
        }
        let spec = model.signature.images.get(&tensor.name)?;
        let input = model.signature.inputs.iter().find(|input| input.name == tensor.name)?;
        Some(Self { images: tensor, input, spec })
    }

    /// Shape of the tensor. All axes but the first are fixed: image settings are invalid otherwise.
    fn shape(&self) -> Vec<usize> {
        let row = self.input.shape.iter().skip(1).map(|&length| usize::try_from(length).unwrap_or(1));
        std::iter::once(self.images.len()).chain(row).collect()
    }

    /// Bytes of the tensor.
    fn bytes(&self) -> usize {
        byte_length(&self.shape(), self.input.datatype.size().unwrap_or_default()).unwrap_or(usize::MAX)
    }

    fn bytes_within(&self, limits: &ImageLimits) -> Result<usize, ImageError> {
        let bytes = self.bytes();
        limits.check_batch(self.images.len(), bytes)?;
        Ok(bytes)
    }

    /// Whether the number of images and the model's size are within the inline limits.
    fn is_inline(&self) -> bool {
        let pixels = u64::from(self.spec.width()) * u64::from(self.spec.height());
        self.images.len() <= MAX_INLINE_IMAGES && pixels <= INLINE_LIMITS.pixels
    }

    fn decode(&self, limits: &ImageLimits, cancelled: &CancellationToken) -> Result<Tensor, Error> {
        if self.images.is_empty() {
            return Err(Error::InvalidInput(format!("The input {:?} contains no image.", self.input.name)));
        }
        let (name, datatype) = (self.input.name.clone(), self.input.datatype);
        let mut data = Vec::with_capacity(self.bytes());
        for (index, image) in self.images.strings().enumerate() {
            if cancelled.is_cancelled() {
                return Err(Error::Internal);
            }
            // The index matters only among several images.
            let with_index = |error: Error| if self.images.len() > 1 { error.at_image(index) } else { error };
            preprocessing::preprocess(&image, self.spec, limits)
                .map_err(|error| with_index(error.into()))?
                .write_row(datatype, &mut data)
                .map_err(|error| {
                    with_index(Error::InvalidInput(format!("The input {name:?} cannot hold the image: {error}.")))
                })?;
        }
        Ok(Tensor { name, datatype, shape: self.shape(), data: data.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocessing::ImageSettings;

    #[test]
    fn a_cancelled_batch_is_decoded_no_further() {
        let input = TensorMetadata::new("x", Datatype::Uint8, &[-1, 2, 2, 1]);
        let spec = ImageSpec::resolve(&ImageSettings::default(), input.datatype, &input.shape).unwrap();
        let images = Tensor::from_strings("x", vec![2], [&b"no"[..], b"picture"]);
        let batch = ImageBatch { images: &images, input: &input, spec: &spec };
        let (limits, cancelled) = (ImageLimits::default(), CancellationToken::new());
        assert!(matches!(batch.decode(&limits, &cancelled), Err(Error::ImageAt { index: 0, .. })));
        cancelled.cancel();
        assert!(matches!(batch.decode(&limits, &cancelled), Err(Error::Internal)));
    }

    #[test]
    fn few_small_images_are_decoded_inline_with_the_same_result() {
        let png = |side: u32| {
            let image = image::GrayImage::from_fn(side, side, |x, y| image::Luma([(x * 7 + y * 3) as u8]));
            let mut file = std::io::Cursor::new(Vec::new());
            image.write_to(&mut file, image::ImageFormat::Png).unwrap();
            file.into_inner()
        };
        let ready = Tensor::from_f32("y", Datatype::Fp32, vec![1, 1], &[0.5]).unwrap();
        let decode_inline = |image: &[u8], count: usize, side: i64, limits: &ImageLimits| {
            let input = TensorMetadata::new("x", Datatype::Fp32, &[-1, side, side, 1]);
            let spec = ImageSpec::resolve(&ImageSettings::default(), input.datatype, &input.shape).unwrap();
            let inputs = [Tensor::from_strings("x", vec![count], vec![image; count]), ready.clone()];
            let batch = ImageBatch { images: &inputs[0], input: &input, spec: &spec };
            let on_pool = batch.decode(limits, &CancellationToken::new()).ok();
            let inline = super::decode_inline(&inputs, &[Some(batch), None], limits);
            assert!(inline.as_ref().is_none_or(|inline| on_pool.as_ref() == Some(&inline[0]) && inline[1] == ready));
            inline.is_some()
        };
        let limits = ImageLimits::default();
        assert!(decode_inline(&png(28), 1, 28, &limits));
        assert!(decode_inline(&png(32), MAX_INLINE_IMAGES, 28, &limits));
        assert!(!decode_inline(&png(28), MAX_INLINE_IMAGES + 1, 28, &limits), "too many");
        assert!(!decode_inline(&png(33), 1, 28, &limits), "too large");
        assert!(!decode_inline(&png(28), 1, 33, &limits), "too large for the model size");
        assert!(!decode_inline(&png(28)[..100], 1, 28, &limits), "truncated");
        assert!(!decode_inline(&png(28), 1, 28, &ImageLimits { side: 27, ..limits }), "above the configured limit");
    }

    #[test]
    fn the_tensor_of_a_batch_has_a_size_limit() {
        let input = TensorMetadata::new("x", Datatype::Fp32, &[-1, 3, 8, 8]);
        let spec = ImageSpec::resolve(&ImageSettings::default(), input.datatype, &input.shape).unwrap();
        let bytes = |count: usize| {
            let images = Tensor::from_strings("x", vec![count], vec![&b""[..]; count]);
            let limits = ImageLimits { decode_bytes: 3 * 768, ..ImageLimits::default() };
            ImageBatch { images: &images, input: &input, spec: &spec }.bytes_within(&limits)
        };
        assert_eq!((bytes(1), bytes(3)), (Ok(768), Ok(3 * 768)));
        assert!(matches!(bytes(4), Err(ImageError::TooLarge { found: 3072, limit: 2304, .. })));
    }
}
