use std::sync::Arc;

use open_inference::{Datatype, Tensor, TensorMetadata, byte_length};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::error::Error;
use crate::image_input::{self, ImageError, ImageLimits, ImageSpec};
use crate::model::Model;

/// Pictures within these limits are read where they are: a dozen microseconds for a digit, where handing it to another thread and
/// being woken by that takes more.
const SMALL: ImageLimits = ImageLimits { bytes: 4 << 10, side: 32, pixels: 32 * 32, decode_bytes: 64 << 10 };

/// So many of them at the most, of each input.
const FEW: usize = 32;

/// Encoded pictures become the tensors that the model expects: N of them one tensor of N rows. Memory for the tensors is
/// reserved before they are made: a thousand pictures of a few bytes each can be gigabytes of pixels.
pub async fn decode(app: &App, model: &Arc<Model>, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Error> {
    let batches: Vec<_> = inputs.iter().map(|tensor| Batch::of(tensor, model)).collect();
    if batches.iter().all(Option::is_none) {
        return Ok(inputs);
    }
    let limits = app.image_limits;
    let bytes: usize = batches.iter().flatten().map(|batch| batch.bytes_within(&limits)).sum::<Result<_, _>>()?;
    if batches.iter().flatten().all(Batch::is_small) {
        let reserved = app.reserve(bytes)?;
        if let Some(inputs) = read_here(&inputs, &batches, &limits) {
            return Ok(reserved.attach_all(inputs));
        }
    }
    let gone = CancellationToken::new();
    let _asker = gone.clone().drop_guard();
    let (model, budget) = (Arc::clone(model), app.inputs.clone());
    let work = move || {
        // Not before: what waits for its turn is still encoded.
        let reserved = budget.try_reserve(bytes).ok_or_else(|| Error::InputsFull(budget.bytes()))?;
        let read = |tensor: Tensor| match Batch::of(&tensor, &model) {
            Some(batch) => batch.read(&limits, &gone),
            None => Ok(tensor),
        };
        Ok(reserved.attach_all(inputs.into_iter().map(read).collect::<Result<_, Error>>()?))
    };
    app.decoder.run(work).await
}

/// `None` where they are many or large, or cannot be read, which is told after the longer way.
fn read_here(inputs: &[Tensor], batches: &[Option<Batch>], limits: &ImageLimits) -> Option<Vec<Tensor>> {
    let small = SMALL.and(limits);
    let read = |(tensor, batch): (&Tensor, &Option<Batch>)| match batch {
        Some(batch) if batch.is_small() => batch.read(&small, &CancellationToken::new()).ok(),
        Some(_) => None,
        None => Some(tensor.clone()),
    };
    inputs.iter().zip(batches).map(read).collect()
}

/// Encoded pictures for one input.
struct Batch<'a> {
    pictures: &'a Tensor,
    input: &'a TensorMetadata,
    spec: &'a ImageSpec,
}

impl<'a> Batch<'a> {
    /// `None` for a tensor that is ready as it is.
    fn of(tensor: &'a Tensor, model: &'a Model) -> Option<Self> {
        if tensor.datatype != Datatype::Bytes {
            return None;
        }
        let spec = model.signature.images.get(&tensor.name)?;
        let input = model.signature.inputs.iter().find(|input| input.name == tensor.name)?;
        Some(Self { pictures: tensor, input, spec })
    }

    /// As a tensor. All lengths but the first are fixed: a picture's settings are refused otherwise.
    fn shape(&self) -> Vec<usize> {
        let row = self.input.shape.iter().skip(1).map(|&length| usize::try_from(length).unwrap_or(1));
        std::iter::once(self.pictures.len()).chain(row).collect()
    }

    /// Of the tensor.
    fn bytes(&self) -> usize {
        byte_length(&self.shape(), self.input.datatype.size().unwrap_or_default()).unwrap_or(usize::MAX)
    }

    fn bytes_within(&self, limits: &ImageLimits) -> Result<usize, ImageError> {
        let bytes = self.bytes();
        limits.allow_batch(self.pictures.len(), bytes)?;
        Ok(bytes)
    }

    /// Whether few pictures are to become as small as those that are read where they are.
    fn is_small(&self) -> bool {
        let pixels = u64::from(self.spec.width()) * u64::from(self.spec.height());
        self.pictures.len() <= FEW && pixels <= SMALL.pixels
    }

    fn read(&self, limits: &ImageLimits, gone: &CancellationToken) -> Result<Tensor, Error> {
        if self.pictures.is_empty() {
            return Err(Error::Unfit(format!("input {:?} has no picture", self.input.name)));
        }
        let (name, datatype) = (self.input.name.clone(), self.input.datatype);
        let mut data = Vec::with_capacity(self.bytes());
        for (place, picture) in self.pictures.strings().enumerate() {
            if gone.is_cancelled() {
                return Err(Error::Internal);
            }
            // Which of them it was is worth telling only where there are several.
            let told = |error: Error| if self.pictures.len() > 1 { error.of_picture(place) } else { error };
            image_input::read(&picture, self.spec, limits)
                .map_err(|error| told(error.into()))?
                .write(datatype, &mut data)
                .map_err(|error| told(Error::Unfit(format!("input {name:?}: {error}"))))?;
        }
        Ok(Tensor { name, datatype, shape: self.shape(), data: data.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_input::ImageSettings;

    #[test]
    fn a_batch_that_nobody_waits_for_is_decoded_no_further() {
        let input = TensorMetadata::new("x", Datatype::Uint8, &[-1, 2, 2, 1]);
        let spec = ImageSpec::resolve(&ImageSettings::default(), input.datatype, &input.shape).unwrap();
        let pictures = Tensor::from_strings("x", vec![2], [&b"no"[..], b"picture"]);
        let batch = Batch { pictures: &pictures, input: &input, spec: &spec };
        let (limits, gone) = (ImageLimits::default(), CancellationToken::new());
        assert!(matches!(batch.read(&limits, &gone), Err(Error::OneOfPictures { place: 0, .. })));
        gone.cancel();
        assert!(matches!(batch.read(&limits, &gone), Err(Error::Internal)));
    }

    #[test]
    fn few_and_small_pictures_are_read_where_they_are_and_become_the_same() {
        let png = |side: u32| {
            let image = image::GrayImage::from_fn(side, side, |x, y| image::Luma([(x * 7 + y * 3) as u8]));
            let mut file = std::io::Cursor::new(Vec::new());
            image.write_to(&mut file, image::ImageFormat::Png).unwrap();
            file.into_inner()
        };
        let ready = Tensor::from_f32("y", Datatype::Fp32, vec![1, 1], &[0.5]).unwrap();
        let read_here = |picture: &[u8], count: usize, side: i64, limits: &ImageLimits| {
            let input = TensorMetadata::new("x", Datatype::Fp32, &[-1, side, side, 1]);
            let spec = ImageSpec::resolve(&ImageSettings::default(), input.datatype, &input.shape).unwrap();
            let inputs = [Tensor::from_strings("x", vec![count], vec![picture; count]), ready.clone()];
            let batch = Batch { pictures: &inputs[0], input: &input, spec: &spec };
            let there = batch.read(limits, &CancellationToken::new()).ok();
            let here = super::read_here(&inputs, &[Some(batch), None], limits);
            assert!(here.as_ref().is_none_or(|here| there.as_ref() == Some(&here[0]) && here[1] == ready));
            here.is_some()
        };
        let limits = ImageLimits::default();
        assert!(read_here(&png(28), 1, 28, &limits));
        assert!(read_here(&png(32), FEW, 28, &limits));
        assert!(!read_here(&png(28), FEW + 1, 28, &limits), "many");
        assert!(!read_here(&png(33), 1, 28, &limits), "large");
        assert!(!read_here(&png(28), 1, 33, &limits), "large when it has been fitted");
        assert!(!read_here(&png(28)[..100], 1, 28, &limits), "broken");
        assert!(!read_here(&png(28), 1, 28, &ImageLimits { side: 27, ..limits }), "larger than the settings allow");
    }

    #[test]
    fn the_tensor_of_a_batch_is_reserved_before_it_is_made_and_has_a_bound() {
        let input = TensorMetadata::new("x", Datatype::Fp32, &[-1, 3, 8, 8]);
        let spec = ImageSpec::resolve(&ImageSettings::default(), input.datatype, &input.shape).unwrap();
        let bytes = |count: usize| {
            let pictures = Tensor::from_strings("x", vec![count], vec![&b""[..]; count]);
            let limits = ImageLimits { decode_bytes: 3 * 768, ..ImageLimits::default() };
            Batch { pictures: &pictures, input: &input, spec: &spec }.bytes_within(&limits)
        };
        assert_eq!((bytes(1), bytes(3)), (Ok(768), Ok(3 * 768)));
        assert!(matches!(bytes(4), Err(ImageError::TooLarge { found: 3072, limit: 2304, .. })));
    }
}
