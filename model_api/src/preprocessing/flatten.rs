//! Flattening: converts pixels of any kind to one or three opaque channels.

use image::{DynamicImage, GrayAlphaImage, GrayImage, RgbImage};

use super::settings::Background;

/// Luma, composited over the background.
pub(super) fn to_gray(image: DynamicImage, background: Background) -> GrayImage {
    let [red, green, blue] = background.0;
    match split_gray(image) {
        Gray::Opaque(image) => image,
        Gray::Transparent(image) => composite(&image, luma(red, green, blue)),
    }
}

/// Luma, composited over white under dark content, and over black under light content.
pub(super) fn to_gray_on_contrast(image: DynamicImage) -> GrayImage {
    match split_gray(image) {
        Gray::Opaque(image) => image,
        Gray::Transparent(image) => composite(&image, contrast_background(&image)),
    }
}

/// Colours, composited over the background.
pub(super) fn to_rgb(image: DynamicImage, background: Background) -> RgbImage {
    match image {
        DynamicImage::ImageRgb8(image) => image,
        image if !image.color().has_alpha() => image.into_rgb8(),
        image => {
            let image = image.into_rgba8();
            let pixels = image.as_raw().as_chunks::<4>().0.iter();
            let [background_red, background_green, background_blue] = background.0;
            let blended = pixels.map(|&[red, green, blue, alpha]| {
                [
                    blend(red, alpha, background_red),
                    blend(green, alpha, background_green),
                    blend(blue, alpha, background_blue),
                ]
            });
            let pixels = blended.collect::<Vec<_>>().into_flattened();
            from_pixels(image.width(), image.height(), pixels, RgbImage::from_raw)
        }
    }
}

enum Gray {
    Opaque(GrayImage),
    Transparent(GrayAlphaImage),
}

fn split_gray(image: DynamicImage) -> Gray {
    let (width, height) = (image.width(), image.height());
    let opaque = |pixels| Gray::Opaque(from_pixels(width, height, pixels, GrayImage::from_raw));
    let transparent = |pixels| Gray::Transparent(from_pixels(width, height, pixels, GrayAlphaImage::from_raw));
    match image {
        DynamicImage::ImageLuma8(image) => Gray::Opaque(image),
        DynamicImage::ImageLumaA8(image) => Gray::Transparent(image),
        image @ (DynamicImage::ImageLuma16(_) | DynamicImage::ImageLumaA16(_)) if !image.color().has_alpha() => {
            Gray::Opaque(image.into_luma8())
        }
        image @ DynamicImage::ImageLumaA16(_) => Gray::Transparent(image.into_luma_alpha8()),
        image if image.color().has_alpha() => {
            let image = image.into_rgba8();
            let pixels = image.as_raw().as_chunks::<4>().0;
            // Fast path: most images with an alpha channel are opaque.
            if pixels.iter().fold(255, |all, [_, _, _, alpha]| all & alpha) == 255 {
                return opaque(pixels.iter().map(|&pixel| luma_of_packed(u32::from_le_bytes(pixel))).collect());
            }
            let pairs = pixels.iter().map(|&[red, green, blue, alpha]| [luma(red, green, blue), alpha]);
            transparent(pairs.collect::<Vec<_>>().into_flattened())
        }
        image => {
            let image = image.into_rgb8();
            let pixels = image.as_raw().as_chunks::<3>().0;
            opaque(pixels.iter().map(|&[red, green, blue]| luma(red, green, blue)).collect())
        }
    }
}

/// Rec. 601 in 16-bit fixed point, rounded as Pillow's `convert("L")` rounds it, so that training and serving agree bit by bit.
fn luma(red: u8, green: u8, blue: u8) -> u8 {
    ((u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471 + 0x8000) >> 16) as u8
}

/// [`luma`] of a packed pixel, with red in the lowest byte, then green and blue. The compiler vectorises it.
fn luma_of_packed(pixel: u32) -> u8 {
    luma(pixel as u8, (pixel >> 8) as u8, (pixel >> 16) as u8)
}

fn blend(value: u8, alpha: u8, background: u8) -> u8 {
    let (value, alpha, background) = (u32::from(value), u32::from(alpha), u32::from(background));
    ((value * alpha + background * (255 - alpha) + 127) / 255) as u8
}

fn composite(image: &GrayAlphaImage, background: u8) -> GrayImage {
    let pixels =
        image.as_raw().as_chunks::<2>().0.iter().map(|&[value, alpha]| blend(value, alpha, background)).collect();
    from_pixels(image.width(), image.height(), pixels, GrayImage::from_raw)
}

/// Black or white, as the background of a transparent image.
///
/// Usually the opaque part is the foreground, and the background must contrast with it. Where most of the image is opaque and has
/// two tones, the image has a background of its own (a card with round corners), and more of the same tone is added.
fn contrast_background(image: &GrayAlphaImage) -> u8 {
    let (mut weight, mut sum, mut squares) = (0_u64, 0_u64, 0_u64);
    for &[value, alpha] in image.as_raw().as_chunks::<2>().0 {
        let (value, alpha) = (u64::from(value), u64::from(alpha));
        weight += alpha;
        sum += alpha * value;
        squares += alpha * value * value;
    }
    if weight == 0 {
        return 0;
    }
    let (weight, sum, squares) = (weight as f64, sum as f64, squares as f64);
    let mean = sum / weight;
    let spread = (squares / weight - mean * mean).max(0.0).sqrt();
    let mostly_opaque = weight > 0.6 * 255.0 * image.pixels().len() as f64;
    let light = mean >= 127.5;
    let same_tone = mostly_opaque && spread > 30.0;
    if light == same_tone { 255 } else { 0 }
}

fn from_pixels<I>(width: u32, height: u32, pixels: Vec<u8>, make: fn(u32, u32, Vec<u8>) -> Option<I>) -> I {
    make(width, height, pixels).expect("as many values were written as the size asks for")
}

#[cfg(test)]
mod tests {
    use image::{LumaA, Rgba};

    use super::*;

    fn rgba(pixels: &[[u8; 4]]) -> DynamicImage {
        DynamicImage::ImageRgba8(image::RgbaImage::from_fn(pixels.len() as u32, 1, |x, _| Rgba(pixels[x as usize])))
    }

    #[test]
    fn brightness_is_rec_601() {
        let colours = rgba(&[[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255], [255, 255, 255, 255]]);
        assert_eq!(to_gray(colours, Background::WHITE).into_raw(), [76, 150, 29, 255]);
    }

    #[test]
    fn transparent_pixels_show_the_background() {
        let dark = [[10, 10, 10, 255], [200, 200, 200, 0], [90, 0, 200, 0], [0, 0, 0, 128]];
        let (black, green) = (Background([0; 3]), Background([0, 200, 0]));
        assert_eq!(to_rgb(rgba(&dark), black).into_raw()[3..6], [0, 0, 0]);
        assert_eq!(to_rgb(rgba(&dark), green).into_raw()[3..], [0, 200, 0, 0, 200, 0, 0, 100, 0]);
        assert_eq!(to_rgb(rgba(&dark), Background::WHITE).into_raw()[6..], [255, 255, 255, 127, 127, 127]);
        assert_eq!(to_gray(rgba(&dark), black).into_raw(), [10, 0, 0, 0]);
        assert_eq!(to_gray(rgba(&dark), Background::WHITE).into_raw(), [10, 255, 255, 127]);
        assert_eq!(to_gray(rgba(&dark), green).into_raw(), [10, 117, 117, 58]);
    }

    #[test]
    fn the_background_contrasts_with_the_foreground() {
        let dark = [[10, 10, 10, 255], [200, 200, 200, 0], [90, 0, 200, 0], [0, 0, 0, 128]];
        assert_eq!(to_gray_on_contrast(rgba(&dark)).into_raw(), [10, 255, 255, 127]);
        let light = [[250, 250, 250, 255], [0, 0, 0, 0], [0, 0, 0, 0]];
        assert_eq!(to_gray_on_contrast(rgba(&light)).into_raw(), [250, 0, 0]);
        assert_eq!(to_gray_on_contrast(rgba(&[[9, 9, 9, 0]])).into_raw(), [0]);
    }

    #[test]
    fn round_corners_of_a_card_get_the_tone_of_the_card() {
        let card = GrayAlphaImage::from_fn(10, 10, |x, y| match (x, y) {
            (0 | 9, 0 | 9) => LumaA([0, 0]),
            (4 | 5, _) => LumaA([0, 255]),
            _ => LumaA([240, 255]),
        });
        assert_eq!(contrast_background(&card), 255);
        let solid = GrayAlphaImage::from_pixel(4, 4, LumaA([0, 255]));
        assert_eq!(contrast_background(&solid), 255);
    }
}
