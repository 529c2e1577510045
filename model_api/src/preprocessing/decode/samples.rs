//! Conversion of samples of more than eight bits to 256 levels.

use image::DynamicImage;

use super::box_filter::image_of;

/// The level of a value, where `low` becomes 0 and `high` 255. Values outside are clamped, and NaN becomes 0.
pub(super) fn level(value: f64, [low, high]: [f64; 2]) -> u8 {
    ((value - low) / (high - low) * 255.0).round().clamp(0.0, 255.0) as u8
}

/// The level of a 16-bit sample. Without a range, it is rounded as the `image` crate rounds it.
pub(super) fn level_of_16(value: u16, range: Option<[f64; 2]>) -> u8 {
    match range {
        Some(range) => level(value.into(), range),
        None => ((u32::from(value) + 128) / 257) as u8,
    }
}

/// The level of each 16-bit sample.
pub(super) fn levels_of_16(range: Option<[f64; 2]>) -> Vec<u8> {
    (0..=u16::MAX).map(|value| level_of_16(value, range)).collect()
}

/// Converts an image of 16 bits per sample to 8 bits by a range of its samples. The range does not apply to alpha. Images of 8
/// bits are returned as they are.
pub(super) fn apply_range(image: DynamicImage, range: Option<[f64; 2]>) -> DynamicImage {
    let Some(range) = range else { return image };
    let (width, height, channels) = (image.width(), image.height(), usize::from(image.color().channel_count()));
    let samples = match &image {
        DynamicImage::ImageLuma16(image) => image.as_raw(),
        DynamicImage::ImageLumaA16(image) => image.as_raw(),
        DynamicImage::ImageRgb16(image) => image.as_raw(),
        DynamicImage::ImageRgba16(image) => image.as_raw(),
        _ => return image,
    };
    let levels = levels_of_16(Some(range));
    let is_alpha = |index: usize| channels % 2 == 0 && index % channels == channels - 1;
    let level = |(index, &sample): (usize, &u16)| {
        if is_alpha(index) { level_of_16(sample, None) } else { levels[usize::from(sample)] }
    };
    let pixels = samples.iter().enumerate().map(level).collect();
    image_of(width, height, channels, pixels).unwrap_or(image)
}

#[cfg(test)]
mod tests {
    use image::{ImageBuffer, Luma, LumaA};

    use super::*;

    #[test]
    fn a_range_maps_to_all_levels() {
        assert_eq!([0.0, 4095.0, 9999.0, -3.0, 2047.5].map(|value| level(value, [0.0, 4095.0])), [0, 255, 255, 0, 128]);
        assert_eq!([f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(|value| level(value, [0.0, 1.0])), [0, 255, 0]);
    }

    #[test]
    fn a_range_applies_to_16_bit_colours_only() {
        let range = Some([0.0, 4095.0]);
        let wide = DynamicImage::ImageLuma16(ImageBuffer::from_pixel(1, 1, Luma([4095])));
        assert_eq!(apply_range(wide.clone(), range).into_bytes(), [255]);
        assert_eq!(apply_range(wide.clone(), None), wide);
        let half = DynamicImage::ImageLumaA16(ImageBuffer::from_pixel(1, 1, LumaA([2048, 0x8080])));
        assert_eq!(apply_range(half, range).into_bytes(), [128, 128]);
        let narrow = DynamicImage::ImageLuma8(ImageBuffer::from_pixel(1, 1, Luma([9])));
        assert_eq!(apply_range(narrow.clone(), range), narrow);
    }
}
