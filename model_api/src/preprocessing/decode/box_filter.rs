//! Box filter over rows as they are decoded: reduces an image to 1/2, 1/4 or 1/8 without holding all of it.

use image::DynamicImage;

/// Averages squares of pixels. It accepts rows of 8-bit pixels from the top, with one to four channels.
///
/// Where the last of two or four channels is alpha, it weights the others: an invisible pixel contributes no colour.
pub(super) struct BoxFilter {
    width: u32,
    channels: usize,
    divisor: usize,
    /// Sums of the unfinished squares per channel, and the number of pixel rows in them.
    sums: Vec<u32>,
    rows: u32,
    pixels: Vec<u8>,
}

impl BoxFilter {
    pub(super) fn new(width: u32, height: u32, channels: usize, divisor: u32) -> Self {
        let across = width.div_ceil(divisor) as usize * channels;
        let pixels = Vec::with_capacity(across * height.div_ceil(divisor) as usize);
        Self { width, channels, divisor: divisor as usize, sums: vec![0; across], rows: 0, pixels }
    }

    /// Memory in bytes, including the result.
    pub(super) fn memory(width: u32, height: u32, channels: usize, divisor: u32) -> u64 {
        let across = u64::from(width.div_ceil(divisor)) * channels as u64;
        across * u64::from(height.div_ceil(divisor)) + across * 4
    }

    /// Adds the next row.
    pub(super) fn push(&mut self, row: &[u8]) {
        let channels = self.channels;
        let has_alpha = channels.is_multiple_of(2);
        let squares = row.chunks(self.divisor * channels).zip(self.sums.chunks_exact_mut(channels));
        for (pixels, sums) in squares {
            for pixel in pixels.chunks_exact(channels) {
                let alpha = if has_alpha { u32::from(pixel[channels - 1]) } else { 1 };
                for (sum, &level) in sums.iter_mut().zip(&pixel[..channels - usize::from(has_alpha)]) {
                    *sum += u32::from(level) * alpha;
                }
                if has_alpha {
                    sums[channels - 1] += alpha;
                }
            }
        }
        self.rows += 1;
        if self.rows as usize == self.divisor {
            self.finish_row();
        }
    }

    fn finish_row(&mut self) {
        let (channels, divisor) = (self.channels, self.divisor);
        let has_alpha = channels.is_multiple_of(2);
        for (square, sums) in self.sums.chunks_exact_mut(channels).enumerate() {
            let across = divisor.min(self.width as usize - square * divisor) as u32;
            let count = across * self.rows;
            let weight = if has_alpha { sums[channels - 1] } else { count };
            let colors = channels - usize::from(has_alpha);
            self.pixels.extend(sums[..colors].iter().map(|sum| rounded(*sum, weight)));
            if has_alpha {
                self.pixels.push(rounded(weight, count));
            }
            sums.fill(0);
        }
        self.rows = 0;
    }

    /// The reduced image; `None` unless as many rows were added as the size requires.
    pub(super) fn finish(mut self, height: u32) -> Option<DynamicImage> {
        if self.rows > 0 {
            self.finish_row();
        }
        let (width, height) = (self.width.div_ceil(self.divisor as u32), height.div_ceil(self.divisor as u32));
        image_of(width, height, self.channels, self.pixels)
    }
}

/// Builds an image from 8-bit pixels with one to four channels.
pub(super) fn image_of(width: u32, height: u32, channels: usize, pixels: Vec<u8>) -> Option<DynamicImage> {
    Some(match channels {
        1 => DynamicImage::ImageLuma8(image::ImageBuffer::from_raw(width, height, pixels)?),
        2 => DynamicImage::ImageLumaA8(image::ImageBuffer::from_raw(width, height, pixels)?),
        3 => DynamicImage::ImageRgb8(image::ImageBuffer::from_raw(width, height, pixels)?),
        _ => DynamicImage::ImageRgba8(image::ImageBuffer::from_raw(width, height, pixels)?),
    })
}

fn rounded(sum: u32, count: u32) -> u8 {
    (sum + count / 2).checked_div(count).unwrap_or(0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn average(width: u32, height: u32, channels: usize, divisor: u32, pixels: &[u8]) -> Vec<u8> {
        let mut filter = BoxFilter::new(width, height, channels, divisor);
        pixels.chunks(width as usize * channels).for_each(|row| filter.push(row));
        filter.finish(height).unwrap().into_bytes()
    }

    #[test]
    fn squares_are_averaged_and_the_last_ones_may_be_smaller() {
        assert_eq!(average(3, 3, 1, 2, &[0, 10, 7, 20, 31, 9, 100, 50, 200]), [15, 8, 75, 200]);
        assert_eq!(average(2, 1, 3, 8, &[0, 1, 2, 10, 11, 12]), [5, 6, 7]);
    }

    #[test]
    fn invisible_pixels_contribute_no_colour() {
        assert_eq!(average(2, 1, 2, 2, &[200, 255, 7, 0]), [200, 128]);
        assert_eq!(average(2, 1, 4, 2, &[1, 2, 3, 0, 4, 5, 6, 0]), [0, 0, 0, 0]);
    }

    #[test]
    fn missing_rows_give_no_image() {
        let mut filter = BoxFilter::new(2, 4, 1, 2);
        (0..2).for_each(|_| filter.push(&[1, 2]));
        assert!(filter.finish(4).is_none());
    }
}
