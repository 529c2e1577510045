//! Planes of values, and resampling.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::GrayImage;

/// A rectangle of values, in row-major order. Never empty.
#[derive(Clone, Debug)]
pub(super) struct Plane<T = u8> {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) values: Vec<T>,
}

/// A region of an image, in pixels. Never empty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Region {
    pub(super) left: u32,
    pub(super) top: u32,
    pub(super) width: u32,
    pub(super) height: u32,
}

impl Region {
    pub(super) fn full(image: &GrayImage) -> Self {
        Self { left: 0, top: 0, width: image.width(), height: image.height() }
    }

    pub(super) fn longest_side(self) -> u32 {
        self.width.max(self.height)
    }
}

impl<T> Plane<T> {
    pub(super) fn rows(&self) -> impl Iterator<Item = &[T]> {
        self.values.chunks_exact(self.width)
    }
}

impl Plane {
    /// A region of the image, downscaled so that its longer side is at most `longest`.
    pub(super) fn downscale(image: &GrayImage, region: Region, longest: u32) -> Self {
        let ratio = (f64::from(longest) / f64::from(region.longest_side())).min(1.0);
        let side = |length: u32| ((f64::from(length) * ratio).round() as u32).max(1);
        let source = ImageRef::new(image.width(), image.height(), image.as_raw(), PixelType::U8)
            .expect("an image holds as many bytes as its size says");
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Hamming)).crop(
            region.left.into(),
            region.top.into(),
            region.width.into(),
            region.height.into(),
        );
        let (width, height) = (side(region.width) as usize, side(region.height) as usize);
        Self { width, height, values: convolved(&source, width, height, &options).into_vec() }
    }

    /// Resamples to another size, antialiased.
    pub(super) fn resize(self, width: usize, height: usize) -> Self {
        if (width, height) == (self.width, self.height) {
            return self;
        }
        // As floats, because the filter's first pass exceeds the range of a byte, and the second pass needs those values.
        let values: Vec<f32> = self.values.iter().map(|&value| value.into()).collect();
        let source =
            ImageRef::new(self.width as u32, self.height as u32, bytemuck::cast_slice(&values), PixelType::F32)
                .expect("a plane holds as many values as its size says");
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
        let resized = convolved(&source, width, height, &options);
        let values = bytemuck::pod_collect_to_vec::<u8, f32>(resized.buffer());
        Self { width, height, values: values.into_iter().map(|value| (value + 0.5) as u8).collect() }
    }

    /// Adds a margin of zeros on each side.
    pub(super) fn pad(&self, margin: usize) -> Self {
        let (width, height) = (self.width + 2 * margin, self.height + 2 * margin);
        let mut values = vec![0; width * height];
        for (to, from) in values.chunks_exact_mut(width).skip(margin).zip(self.rows()) {
            to[margin..margin + self.width].copy_from_slice(from);
        }
        Self { width, height, values }
    }
}

fn convolved(source: &ImageRef, width: usize, height: usize, options: &ResizeOptions) -> Image<'static> {
    let mut resized = Image::new(width as u32, height as u32, source.pixel_type());
    Resizer::new().resize(source, &mut resized, options).expect("what is looked at lies within its image");
    resized
}
