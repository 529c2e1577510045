//! Files of phones, browsers and laboratories: trailing data, transparency, high bit depths, many pixels.

use super::*;
use crate::preprocessing::ImageError;

const FORMATS: [ImageFormat; 6] =
    [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::WebP, ImageFormat::Tiff];

/// Pseudo-random bytes, which contain every pair of bytes.
fn random_bytes(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 11) as u8
    };
    [b"\0\0\0\x18ftypmp42".to_vec(), std::iter::repeat_with(next).take(length).collect()].concat()
}

#[test]
fn trailing_data_is_ignored() {
    let image = DynamicImage::ImageRgb8(quarters(40, 30));
    let jpeg = encode(&image, ImageFormat::Jpeg);
    for format in FORMATS {
        let file = encode(&image, format);
        let expected = read(&file, &rgb(40, 30, "stretch")).unwrap().pixels;
        for behind in (0..24).map(|seed| random_bytes(seed, 100_000)).chain([vec![0; 9], vec![0xFF; 9], jpeg.clone()]) {
            let found = read(&[&file[..], &behind].concat(), &rgb(40, 30, "stretch"));
            assert!(found.is_ok_and(|found| found.pixels == expected), "{format:?}");
        }
    }
}

#[test]
fn a_jpeg_without_an_end_marker_is_decoded() {
    for (width, height) in [(40, 30), (8, 200), (300, 3)] {
        let file = encode(&DynamicImage::ImageRgb8(quarters(width, height)), ImageFormat::Jpeg);
        for spec in [rgb(20, 20, "stretch"), gray(20, 20)] {
            let expected = read(&file, &spec).unwrap().pixels;
            assert_eq!(read(&file[..file.len() - 2], &spec).unwrap().pixels, expected);
            assert_eq!(read(&file[..file.len() - 1], &spec).unwrap().pixels, expected);
        }
        assert!(read(&file[..file.len() - 12], &rgb(20, 20, "stretch")).is_err());
    }
}

#[test]
fn an_unsupported_jpeg_is_not_reported_as_damaged() {
    let mut jpeg = encode(&DynamicImage::ImageRgb8(quarters(8, 8)), ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 1] = 0xC9;
    let error = read(&jpeg, &digit()).unwrap_err().to_string();
    assert!(error.contains("arithmetic-coded JPEG is not supported; save it as"), "{error}");
}

/// A black square on a transparent background; returns the levels of its centre and its corner after preprocessing.
fn square_on_transparent(format: ImageFormat, settings: &str, channels: i64) -> Vec<u8> {
    let square = |x: u32, y: u32| if (2..6).contains(&x) && (2..6).contains(&y) { 255 } else { 0 };
    let image = ImageBuffer::from_fn(8, 8, |x, y| Rgba([0, 0, 0, square(x, y)]));
    let file = encode(&DynamicImage::ImageRgba8(image), format);
    let prepared = read(&file, &spec(settings, &[-1, 8, 8, channels])).unwrap();
    let at = |x: usize, y: usize| prepared.pixels[(y * 8 + x) * channels as usize];
    vec![at(4, 4), at(0, 0)]
}

#[test]
fn dark_content_on_a_transparent_background_appears_on_white() {
    for format in [ImageFormat::Png, ImageFormat::Gif, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff] {
        for channels in [1, 3] {
            assert_eq!(square_on_transparent(format, "{}", channels), [0, 255], "{format:?}");
            assert_eq!(
                square_on_transparent(format, r##"{"background": "#606060"}"##, channels),
                [0, 0x60],
                "{format:?}"
            );
            assert_eq!(square_on_transparent(format, r#"{"background": "black"}"#, channels), [0, 0], "{format:?}");
        }
    }
    let palette: [(&[u8; 4], &[u8]); 2] = [(b"PLTE", &[0, 0, 0, 200, 0, 0]), (b"tRNS", &[0])];
    let file = malformed::png(2, 1, 8, 3, &palette, &[0, 0, 1]);
    assert_eq!(read(&file, &rgb(2, 1, "stretch")).unwrap().pixels, [255, 255, 255, 200, 0, 0]);
}

#[test]
fn twelve_bits_in_sixteen_use_the_given_range() {
    let levels = [0_u16, 1024, 4095];
    let image = DynamicImage::ImageLuma16(ImageBuffer::from_fn(3, 1, |x, _| Luma([levels[x as usize]])));
    for format in [ImageFormat::Png, ImageFormat::Tiff, ImageFormat::Pnm] {
        let file = encode(&image, format);
        let seen = |settings: &str| read(&file, &spec(settings, &[-1, 1, 3, 1])).unwrap().pixels;
        assert_eq!(seen("{}"), [0, 4, 16], "{format:?}");
        assert_eq!(seen(r#"{"range": [0, 4095]}"#), [0, 64, 255], "{format:?}");
        assert_eq!(seen(r#"{"range": [1024, 2048]}"#), [0, 0, 255], "{format:?}");
    }
}

/// A gradient, which looks the same at every scale.
fn gradient(width: u32, height: u32) -> DynamicImage {
    let level = |part: u32, whole: u32| (f64::from(part) / f64::from(whole) * 255.0) as u8;
    let pixel = |x, y| Rgb([level(x, width), level(y, height), 255 - level(x, width) / 2]);
    DynamicImage::ImageRgb8(RgbImage::from_fn(width, height, pixel))
}

#[test]
fn an_image_above_the_memory_limit_is_decoded_at_a_reduced_scale() {
    let image = gradient(600, 400);
    for (format, pixels) in [
        (ImageFormat::Png, image.clone()),
        (ImageFormat::Png, image.to_rgba16().into()),
        (ImageFormat::Png, image.to_luma16().into()),
        (ImageFormat::Jpeg, image.clone()),
        (ImageFormat::Jpeg, image.to_luma8().into()),
    ] {
        let file = encode(&pixels, format);
        for spec in [rgb(30, 20, "stretch"), gray(30, 20)] {
            let whole = read(&file, &spec).unwrap().pixels;
            let limits = ImageLimits { decode_bytes: 660_000, ..ImageLimits::default() };
            let reduced = super::super::preprocess(&file, &spec, &limits).unwrap().pixels;
            assert_close(&reduced, &whole, 3, &format!("{format:?} of {:?}", pixels.color()));
        }
    }
}

#[test]
fn more_pixels_than_the_full_scale_limit_are_decoded() {
    let image = GrayImage::from_fn(5_800, 5_800, |x, _| Luma([(x / 25) as u8]));
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 60).encode_image(&image).unwrap();
    let spec = gray(58, 58);
    let small = GrayImage::from_fn(58, 58, |x, _| Luma([(x * 4 + 2) as u8]));
    assert_close(&read(&jpeg, &spec).unwrap().pixels, small.as_raw(), 4, "a JPEG of 34 megapixels");
    let few = ImageLimits { decode_bytes: 100_000, ..ImageLimits::default() };
    let error = super::super::preprocess(&jpeg, &spec, &few).unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { setting: "MAX_DECODE_BYTES", .. }), "{error}");
}
