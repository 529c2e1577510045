//! Resizing for all fits except `digit`: one antialiased resampling, and black padding.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{GrayImage, RgbImage};

use super::error::ImageError;
use super::settings::{Fit, ImageSpec};

pub(super) fn gray(image: GrayImage, fit: Fit, spec: &ImageSpec) -> Result<Vec<u8>, ImageError> {
    let (width, height) = image.dimensions();
    fit_to_size(Source { pixels: image.into_raw(), width, height, kind: PixelType::U8 }, fit, spec)
}

pub(super) fn rgb(image: RgbImage, fit: Fit, spec: &ImageSpec) -> Result<Vec<u8>, ImageError> {
    let (width, height) = image.dimensions();
    fit_to_size(Source { pixels: image.into_raw(), width, height, kind: PixelType::U8x3 }, fit, spec)
}

struct Source {
    pixels: Vec<u8>,
    width: u32,
    height: u32,
    kind: PixelType,
}

fn fit_to_size(source: Source, fit: Fit, spec: &ImageSpec) -> Result<Vec<u8>, ImageError> {
    let (width, height) = (spec.width(), spec.height());
    let (inner_width, inner_height) = match fit {
        Fit::Contain => contain_size(source.width, source.height, width, height),
        _ => (width, height),
    };
    let resized = resample(source, inner_width, inner_height, fit == Fit::Cover)?;
    if (inner_width, inner_height) == (width, height) {
        return Ok(resized);
    }
    let channels = spec.channels();
    let row = inner_width as usize * channels;
    let mut padded = vec![0; width as usize * height as usize * channels];
    let (left, top) = ((width - inner_width) / 2, (height - inner_height) / 2);
    let start = (top as usize * width as usize + left as usize) * channels;
    let rows = padded[start..].chunks_mut(width as usize * channels);
    for (to, from) in rows.zip(resized.chunks_exact(row)) {
        to[..row].copy_from_slice(from);
    }
    Ok(padded)
}

/// The largest size with the source's aspect ratio within the limits, and at least one pixel.
fn contain_size(source_width: u32, source_height: u32, width: u32, height: u32) -> (u32, u32) {
    let ratio = (f64::from(width) / f64::from(source_width)).min(f64::from(height) / f64::from(source_height));
    let side = |source: u32, limit: u32| ((f64::from(source) * ratio).round() as u32).clamp(1, limit);
    (side(source_width, width), side(source_height, height))
}

fn resample(source: Source, width: u32, height: u32, cover: bool) -> Result<Vec<u8>, ImageError> {
    if (source.width, source.height) == (width, height) {
        return Ok(source.pixels);
    }
    let unprocessable = |reason: String| ImageError::Unprocessable { reason };
    let from = ImageRef::new(source.width, source.height, &source.pixels, source.kind)
        .map_err(|error| unprocessable(error.to_string()))?;
    let mut to = Image::new(width, height, source.kind);
    let mut options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    if cover {
        options = options.fit_into_destination(None);
    }
    Resizer::new().resize(&from, &mut to, &options).map_err(|error| unprocessable(error.to_string()))?;
    Ok(to.into_vec())
}
