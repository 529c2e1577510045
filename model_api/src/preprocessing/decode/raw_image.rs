//! A decoded image before it is flattened.

use image::metadata::Orientation;
use image::{DynamicImage, ImageBuffer, Pixel, imageops};

/// Decoded pixels in the file's own colour type, with their orientation.
pub(in crate::preprocessing) struct RawImage {
    pub image: DynamicImage,
    pub orientation: Orientation,
}

/// Larger images are decoded at a reduced scale, whatever the model's size.
pub(super) const MAX_FULL_SCALE_PIXELS: u64 = 32 << 20;

impl RawImage {
    /// Flattens the pixels to one or three channels, then applies the orientation to those fewer bytes.
    pub(in crate::preprocessing) fn flatten_upright<P>(
        self,
        flatten: impl FnOnce(DynamicImage) -> ImageBuffer<P, Vec<u8>>,
    ) -> ImageBuffer<P, Vec<u8>>
    where
        P: Pixel<Subpixel = u8> + 'static,
    {
        let mut image = flatten(self.image);
        match self.orientation {
            Orientation::NoTransforms => {}
            Orientation::Rotate90 => image = imageops::rotate90(&image),
            Orientation::Rotate180 => imageops::rotate180_in_place(&mut image),
            Orientation::Rotate270 => image = imageops::rotate270(&image),
            Orientation::FlipHorizontal => imageops::flip_horizontal_in_place(&mut image),
            Orientation::FlipVertical => imageops::flip_vertical_in_place(&mut image),
            Orientation::Rotate90FlipH => {
                image = imageops::rotate90(&image);
                imageops::flip_horizontal_in_place(&mut image);
            }
            Orientation::Rotate270FlipH => {
                image = imageops::rotate270(&image);
                imageops::flip_horizontal_in_place(&mut image);
            }
        }
        image
    }
}
