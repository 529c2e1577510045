//! Every format, every orientation, and inputs that are not images.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, GrayImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgb, RgbImage, Rgba};
use open_inference::Datatype;

use super::*;

mod files;
mod malformed;

fn spec(json: &str, shape: &[i64]) -> ImageSpec {
    ImageSpec::resolve(&serde_json::from_str(json).unwrap(), Datatype::Fp32, shape).unwrap()
}

fn rgb(width: i64, height: i64, fit: &str) -> ImageSpec {
    spec(&format!(r#"{{"fit": "{fit}"}}"#), &[-1, height, width, 3])
}

fn gray(width: i64, height: i64) -> ImageSpec {
    spec(r#"{"fit": "stretch"}"#, &[-1, height, width, 1])
}

fn digit() -> ImageSpec {
    spec(r#"{"fit": "digit"}"#, &[-1, 28, 28, 1])
}

/// The input tensor of a model with floats.
fn tensor(prepared: &ModelImage) -> Vec<f32> {
    let mut data = Vec::new();
    prepared.write_row(Datatype::Fp32, &mut data).unwrap();
    data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, format).unwrap();
    file.into_inner()
}

fn read(bytes: &[u8], spec: &ImageSpec) -> Result<ModelImage, ImageError> {
    super::preprocess(bytes, spec, &ImageLimits::default())
}

/// Quarters in red, green, blue and gray.
fn quarters(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| match (x * 2 < width, y * 2 < height) {
        (true, true) => Rgb([200, 0, 0]),
        (false, true) => Rgb([0, 200, 0]),
        (true, false) => Rgb([0, 0, 200]),
        (false, false) => Rgb([90, 90, 90]),
    })
}

fn assert_close(found: &[u8], expected: &[u8], tolerance: u8, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
    assert!(worst <= tolerance, "{what}: differs by {worst}");
}

#[test]
fn every_format_gives_the_same_image() {
    let image = DynamicImage::ImageRgb8(quarters(16, 16));
    for (format, tolerance) in [
        (ImageFormat::Png, 0),
        (ImageFormat::Bmp, 0),
        (ImageFormat::Tiff, 0),
        (ImageFormat::Pnm, 0),
        (ImageFormat::WebP, 0),
        (ImageFormat::Gif, 4),
        (ImageFormat::Jpeg, 16),
    ] {
        let prepared = read(&encode(&image, format), &rgb(16, 16, "contain")).unwrap();
        assert_close(&prepared.pixels, image.as_bytes(), tolerance, &format!("{format:?}"));
    }
}

#[test]
fn every_colour_type_is_decoded() {
    let level = |x: u32, y: u32| (x * 12 + y * 3) as u8;
    let expected = GrayImage::from_fn(12, 10, |x, y| Luma([level(x, y)])).into_raw();
    let wide = |x, y| u16::from(level(x, y)) * 257;
    let kinds: [DynamicImage; 8] = [
        GrayImage::from_fn(12, 10, |x, y| Luma([level(x, y)])).into(),
        ImageBuffer::from_fn(12, 10, |x, y| LumaA([level(x, y), 255])).into(),
        ImageBuffer::from_fn(12, 10, |x, y| Rgb([level(x, y); 3])).into(),
        ImageBuffer::from_fn(12, 10, |x, y| Rgba([level(x, y), level(x, y), level(x, y), 255])).into(),
        ImageBuffer::from_fn(12, 10, |x, y| Luma([wide(x, y)])).into(),
        ImageBuffer::from_fn(12, 10, |x, y| LumaA([wide(x, y), 65535])).into(),
        ImageBuffer::from_fn(12, 10, |x, y| Rgb([wide(x, y); 3])).into(),
        ImageBuffer::from_fn(12, 10, |x, y| Rgba([wide(x, y), wide(x, y), wide(x, y), 65535])).into(),
    ];
    for kind in kinds {
        let what = format!("{:?}", kind.color());
        let bytes = encode(&kind, ImageFormat::Png);
        assert_close(&read(&bytes, &gray(12, 10)).unwrap().pixels, &expected, 0, &what);
        let threefold: Vec<u8> = expected.iter().flat_map(|value| [*value; 3]).collect();
        assert_close(&read(&bytes, &rgb(12, 10, "cover")).unwrap().pixels, &threefold, 0, &what);
        read(&bytes, &digit()).unwrap();
    }
}

#[test]
fn palettes_and_single_bits_are_decoded() {
    // A 4×1 image with two bits per pixel: black, red, green, blue.
    let palette =
        malformed::png(4, 1, 2, 3, &[(b"PLTE", &[0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])], &[0, 0b0001_1011]);
    let prepared = read(&palette, &rgb(4, 1, "stretch")).unwrap();
    assert_eq!(prepared.pixels, [0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255]);
    let bits = malformed::png(8, 1, 1, 0, &[], &[0, 0b1010_0001]);
    assert_eq!(read(&bits, &gray(8, 1)).unwrap().pixels, [255, 0, 255, 0, 0, 0, 0, 255]);
    let bitmap = b"P4\n8 1\n\xA1";
    assert_eq!(read(bitmap, &gray(8, 1)).unwrap().pixels, [0, 255, 0, 255, 255, 255, 255, 0]);
}

/// A JPEG with an orientation in its EXIF block.
fn jpeg_turned(image: &RgbImage, orientation: u8) -> Vec<u8> {
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 95).encode_image(image).unwrap();
    let tiff = [&b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0"[..], &[orientation, 0, 0, 0, 0, 0, 0]].concat();
    let exif = [&b"Exif\0\0"[..], &tiff].concat();
    let length = (exif.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xFF, 0xE1], &length, &exif, &jpeg[2..]].concat()
}

#[test]
fn all_eight_orientations_give_the_same_image() {
    let upright = quarters(32, 24);
    let expected = read(&jpeg_turned(&upright, 1), &rgb(32, 24, "contain")).unwrap();
    assert_close(&expected.pixels, upright.as_raw(), 24, "upright");
    // The image as the camera stored it: applying the orientation makes it upright again.
    let dynamic = DynamicImage::ImageRgb8(upright);
    for (orientation, seen) in [
        (2, dynamic.fliph()),
        (3, dynamic.rotate180()),
        (4, dynamic.flipv()),
        (5, dynamic.rotate90().fliph()),
        (6, dynamic.rotate270()),
        (7, dynamic.rotate270().fliph()),
        (8, dynamic.rotate90()),
    ] {
        let prepared = read(&jpeg_turned(seen.as_rgb8().unwrap(), orientation), &rgb(32, 24, "contain")).unwrap();
        assert_close(&prepared.pixels, &expected.pixels, 40, &format!("orientation {orientation}"));
        read(&jpeg_turned(seen.as_rgb8().unwrap(), orientation), &digit()).unwrap();
    }
}

#[test]
fn images_of_any_size_fit() {
    for (width, height) in [(1, 1), (1, 300), (300, 1), (2, 2), (3, 1000), (28, 28), (640, 480)] {
        let bytes = encode(&DynamicImage::ImageRgb8(quarters(width, height)), ImageFormat::Png);
        for fit in ["contain", "cover", "stretch"] {
            assert_eq!(read(&bytes, &rgb(20, 30, fit)).unwrap().pixels.len(), 20 * 30 * 3);
        }
        assert_eq!(read(&bytes, &digit()).unwrap().pixels.len(), 28 * 28);
    }
}

#[test]
fn each_fit_scales_as_documented() {
    let wide = encode(
        &DynamicImage::ImageRgb8(RgbImage::from_fn(40, 20, |x, _| Rgb([if x < 20 { 50 } else { 250 }; 3]))),
        ImageFormat::Png,
    );
    let at = |prepared: &ModelImage, x: usize, y: usize| prepared.pixels[(y * 20 + x) * 3];
    let contained = read(&wide, &rgb(20, 20, "contain")).unwrap();
    assert_eq!(
        [at(&contained, 3, 2), at(&contained, 3, 10), at(&contained, 16, 10), at(&contained, 3, 17)],
        [0, 50, 250, 0]
    );
    let covered = read(&wide, &rgb(20, 20, "cover")).unwrap();
    assert_eq!([at(&covered, 3, 0), at(&covered, 16, 19)], [50, 250]);
    let stretched = read(&wide, &rgb(20, 20, "stretch")).unwrap();
    assert_eq!([at(&stretched, 1, 0), at(&stretched, 18, 19)], [50, 250]);
}

#[test]
fn the_tensor_has_the_models_range_and_layout() {
    let bytes = encode(
        &DynamicImage::ImageRgb8(RgbImage::from_raw(2, 1, vec![0, 51, 102, 153, 204, 255]).unwrap()),
        ImageFormat::Png,
    );
    let near = |found: Vec<f32>, expected: [f32; 6]| {
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
    };
    near(tensor(&read(&bytes, &rgb(2, 1, "stretch")).unwrap()), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
    let planes = spec(r#"{"mean": [0.6, 0, 0.4], "std": [0.5, 1, 0.1]}"#, &[-1, 3, 1, 2]);
    near(tensor(&read(&bytes, &planes).unwrap()), [-1.2, 0.0, 0.2, 0.8, 0.0, 6.0]);
}

#[test]
fn the_preprocessed_image_is_available_as_png() {
    let bytes = encode(&DynamicImage::ImageRgb8(quarters(16, 16)), ImageFormat::Bmp);
    let png = read(&bytes, &rgb(16, 16, "contain")).unwrap().to_png().unwrap();
    assert_eq!(read(&png, &rgb(16, 16, "contain")).unwrap().pixels, quarters(16, 16).into_raw());
    assert_eq!(read(&read(&bytes, &digit()).unwrap().to_png().unwrap(), &gray(28, 28)).unwrap().pixels.len(), 784);
}
