use fast_image_resize::images::{Image, ImageRef, TypedImage, TypedImageRef};
use fast_image_resize::pixels::F32;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::GrayImage;

/// A rectangle of numbers, row after row. Never empty.
#[derive(Clone, Debug)]
pub(super) struct Plane {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) values: Vec<f32>,
}

/// A part of a picture, in its pixels. Never empty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Region {
    pub(super) left: u32,
    pub(super) top: u32,
    pub(super) width: u32,
    pub(super) height: u32,
}

impl Region {
    pub(super) fn all(picture: &GrayImage) -> Self {
        Self { left: 0, top: 0, width: picture.width(), height: picture.height() }
    }

    pub(super) fn longest_side(self) -> u32 {
        self.width.max(self.height)
    }

    /// Whether looking at it at most `longest` pixels a side leaves something out.
    pub(super) fn is_shrunk(self, longest: u32) -> bool {
        self.longest_side() > longest
    }
}

impl Plane {
    /// A region of the picture, its longer side averaged down to `longest` where it is longer. Values 0–255.
    pub(super) fn shrunk(picture: &GrayImage, region: Region, longest: u32) -> Self {
        let ratio = (f64::from(longest) / f64::from(region.longest_side())).min(1.0);
        let side = |length: u32| ((f64::from(length) * ratio).round() as u32).max(1);
        let (width, height) = (side(region.width), side(region.height));
        let mut shrunk = Image::new(width, height, PixelType::U8);
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Hamming)).crop(
            region.left.into(),
            region.top.into(),
            region.width.into(),
            region.height.into(),
        );
        let source = ImageRef::new(picture.width(), picture.height(), picture.as_raw(), PixelType::U8)
            .expect("an image holds as many bytes as its size says");
        Resizer::new().resize(&source, &mut shrunk, &options).expect("a region lies within its picture");
        let values = shrunk.buffer().iter().map(|&value| f32::from(value)).collect();
        Self { width: width as usize, height: height as usize, values }
    }

    /// The whole of it at another size, antialiased.
    pub(super) fn resized(&self, width: usize, height: usize) -> Self {
        if (width, height) == (self.width, self.height) {
            return self.clone();
        }
        let pixels: Vec<F32> = self.values.iter().map(|&value| F32::new(value)).collect();
        let source = TypedImageRef::new(self.width as u32, self.height as u32, &pixels)
            .expect("a plane holds as many values as its size says");
        let mut resized = TypedImage::<F32>::new(width as u32, height as u32);
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
        Resizer::new().resize_typed(&source, &mut resized, &options).expect("the whole of a plane lies within it");
        let values = resized.pixels().iter().map(|pixel| pixel.0).collect();
        Self { width, height, values }
    }

    /// With so many pixels of 0 on each side.
    pub(super) fn padded(&self, margin: usize) -> Self {
        let (width, height) = (self.width + 2 * margin, self.height + 2 * margin);
        let mut values = vec![0.0; width * height];
        for (to, from) in values.chunks_exact_mut(width).skip(margin).zip(self.values.chunks_exact(self.width)) {
            to[margin..margin + self.width].copy_from_slice(from);
        }
        Self { width, height, values }
    }

    /// A part of it.
    pub(super) fn part(&self, left: usize, top: usize, width: usize, height: usize) -> Self {
        let rows = self.values.chunks_exact(self.width).skip(top).take(height);
        Self { width, height, values: rows.flat_map(|row| &row[left..left + width]).copied().collect() }
    }
}

/// The value that this share of `values` does not exceed; 0 of none.
pub(super) fn quantile(values: &mut [f32], share: f32) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    let index = ((values.len() as f32 * share) as usize).min(values.len() - 1);
    *values.select_nth_unstable_by(index, f32::total_cmp).1
}
