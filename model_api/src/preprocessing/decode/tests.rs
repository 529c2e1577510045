//! Comparison with the decoders of the `image` crate: on the sample images, and on generated images of every format and colour
//! type in a few sizes. The reference is simple and shares no code with the tested one.

use std::io::Cursor;
use std::path::Path;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{DynamicImage, ImageEncoder, Rgba, Rgba32FImage};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

use super::*;
use crate::preprocessing::flatten::{to_gray, to_gray_on_contrast, to_rgb};
use crate::preprocessing::settings::Background;

const BLACK: Background = Background([0; 3]);

/// Settings of a model of 64 × 64 pixels.
pub(super) fn spec(settings: &str, channels: i64) -> ImageSpec {
    let settings = serde_json::from_str(settings).unwrap();
    ImageSpec::resolve(&settings, open_inference::Datatype::Fp32, &[-1, 64, 64, channels]).unwrap()
}

const SIZES: [(u32, u32); 7] = [(1, 1), (1, 7), (8, 3), (17, 16), (33, 65), (100, 41), (250, 130)];

/// A bright disc on a colour gradient with noise; with `alpha`, a tenth of it is translucent.
pub(super) fn sample_image(width: u32, height: u32, alpha: f32) -> DynamicImage {
    let shade = |x: u32, y: u32| {
        let (across, down) = (x as f32 / width as f32, y as f32 / height as f32);
        let disc = if (across - 0.5).hypot(down - 0.4) < 0.3 { 0.5 } else { 0.0 };
        let grain = (x.wrapping_mul(7919) ^ y.wrapping_mul(104_729)).wrapping_mul(2_654_435_761) >> 24;
        let level = |slope: f32| 0.2 + 0.25 * slope + disc + grain as f32 / 2550.0;
        Rgba([level(across), level(down), level(1.0 - across), if across > 0.9 { alpha } else { 1.0 }])
    };
    Rgba32FImage::from_fn(width, height, shade).into()
}

/// The image in each 8-bit and 16-bit colour type.
fn kinds(image: &DynamicImage) -> [DynamicImage; 8] {
    [
        image.to_luma8().into(),
        image.to_luma_alpha8().into(),
        image.to_rgb8().into(),
        image.to_rgba8().into(),
        image.to_luma16().into(),
        image.to_luma_alpha16().into(),
        image.to_rgb16().into(),
        image.to_rgba16().into(),
    ]
}

/// The file's pixels as decoded by the `image` crate over black: colours, and their luma.
fn reference(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let image = image::load_from_memory(bytes).unwrap();
    let over_black = |value: u8, alpha: u8| (f64::from(value) * f64::from(alpha) / 255.0).round() as u8;
    let rgb = |Rgba([r, g, b, alpha]): &Rgba<u8>| [*r, *g, *b].map(|value| over_black(value, *alpha));
    let luma = |Rgba([r, g, b, alpha]): &Rgba<u8>| {
        let luma = if r == g && g == b { *r } else { luma(*r, *g, *b) };
        over_black(luma, *alpha)
    };
    let image = image.into_rgba8();
    (image.pixels().flat_map(rgb).collect(), image.pixels().map(luma).collect())
}

/// In fixed point, as Pillow computes it.
fn luma(r: u8, g: u8, b: u8) -> u8 {
    ((19_595 * u32::from(r) + 38_470 * u32::from(g) + 7_471 * u32::from(b) + 32_768) / 65_536) as u8
}

/// Compares the decoded file with the reference: colours must be equal, luma may differ by `tolerance`.
fn check(bytes: &[u8], tolerance: u8, what: &str) {
    let (rgb, gray) = reference(bytes);
    let limits = ImageLimits::default();
    let read = |channels| decode(bytes, &spec("{}", channels), &limits).unwrap();
    assert!(read(3).flatten_upright(|image| to_rgb(image, BLACK)).into_raw() == rgb, "{what}: other colours");
    let found = read(1).flatten_upright(|image| to_gray(image, BLACK)).into_raw();
    assert_eq!(found.len(), gray.len(), "{what}");
    let worst = found.iter().zip(&gray).map(|(found, expected)| found.abs_diff(*expected)).max();
    assert!(worst <= Some(tolerance), "{what}: brightness differs by {worst:?}");
    if !image::load_from_memory(bytes).unwrap().color().has_alpha() {
        assert!(
            read(1).flatten_upright(to_gray_on_contrast).into_raw() == found,
            "{what}: opaque, but paper shows through"
        );
    }
}

#[test]
fn the_sample_images_are_decoded_as_by_the_image_crate() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let mut count = 0;
    for model in std::fs::read_dir(models).unwrap() {
        for file in std::fs::read_dir(model.unwrap().path().join("samples")).into_iter().flatten() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "png") {
                check(&std::fs::read(&path).unwrap(), 0, &path.display().to_string());
                count += 1;
            }
        }
    }
    assert!(count >= 20, "{count} images");
}

#[test]
fn every_lossless_format_is_decoded_as_by_the_image_crate() {
    for (width, height) in SIZES {
        let kinds = [1.0, 0.5, 0.0].map(|alpha| kinds(&sample_image(width, height, alpha)));
        for format in [
            ImageFormat::Png,
            ImageFormat::Bmp,
            ImageFormat::Gif,
            ImageFormat::WebP,
            ImageFormat::Tiff,
            ImageFormat::Pnm,
        ] {
            let mut written = 0;
            for image in kinds.as_flattened() {
                let mut file = Cursor::new(Vec::new());
                // Not every format supports every colour type.
                if image.write_to(&mut file, format).is_ok() {
                    check(file.get_ref(), 0, &format!("{format:?} of {width}x{height} {:?}", image.color()));
                    written += 1;
                }
            }
            assert!(written >= 3, "{format:?}: {written} kinds");
        }
    }
}

#[test]
fn every_filter_of_png_is_decoded_as_by_the_image_crate() {
    let image = sample_image(100, 41, 0.5).into_rgba8();
    for filter in [FilterType::NoFilter, FilterType::Sub, FilterType::Up, FilterType::Avg, FilterType::Paeth] {
        let mut file = Vec::new();
        PngEncoder::new_with_quality(&mut file, CompressionType::Best, filter)
            .write_image(&image, 100, 41, image::ExtendedColorType::Rgba8)
            .unwrap();
        check(&file, 0, &format!("{filter:?}"));
    }
}

/// Compares the luma of a JPEG with that of another file with the same data. Each decoder rounds its own transform.
fn check_luma(bytes: &[u8], other: &[u8], what: &str) {
    let gray = |bytes| {
        let decoded = decode(bytes, &spec("{}", 1), &ImageLimits::default()).unwrap();
        decoded.flatten_upright(|image| to_gray(image, BLACK)).into_raw()
    };
    let (found, expected) = (gray(bytes), gray(other));
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(&expected).map(|(found, expected)| found.abs_diff(*expected)).max();
    assert!(worst <= Some(2), "{what}: brightness differs by {worst:?}");
    let colours = decode(bytes, &spec("{}", 3), &ImageLimits::default()).unwrap();
    let luma = colours.flatten_upright(|image| to_gray(image, BLACK)).into_raw();
    let mean = luma.iter().zip(&expected).map(|(found, expected)| f64::from(found.abs_diff(*expected))).sum::<f64>();
    assert!(mean / (expected.len() as f64) < 6.0, "{what}: colours differ by {mean}");
}

/// Luma is a channel of the JPEG, while the reference computes it from colours that are rounded to whole levels.
const ROUNDED_COLOURS: u8 = 1;

#[test]
fn every_kind_of_jpeg_is_decoded_as_by_the_image_crate() {
    use SamplingFactor::{F_1_1, F_1_2, F_2_1, F_2_2};
    for (width, height) in SIZES {
        let image = sample_image(width, height, 1.0);
        for (color, pixels, sampling) in [
            (ColorType::Luma, image.to_luma8().into_raw(), F_1_1),
            (ColorType::Rgb, image.to_rgb8().into_raw(), F_1_1),
            (ColorType::Rgb, image.to_rgb8().into_raw(), F_2_1),
            (ColorType::Rgb, image.to_rgb8().into_raw(), F_1_2),
            (ColorType::Rgb, image.to_rgb8().into_raw(), F_2_2),
            (ColorType::Cmyk, image.to_rgba8().into_raw(), F_1_1),
            (ColorType::CmykAsYcck, image.to_rgba8().into_raw(), F_1_1),
        ] {
            let mut interleaved = Vec::new();
            for order in ["interleaved", "interleaved, restarted", "channel by channel", "progressive"] {
                let mut file = Vec::new();
                let mut encoder = Encoder::new(&mut file, 90);
                encoder.set_sampling_factor(sampling);
                encoder.set_progressive(order == "progressive");
                // With optimised tables, this encoder writes one scan per channel.
                encoder.set_optimized_huffman_tables(order == "channel by channel");
                encoder.set_restart_interval(if order == "interleaved, restarted" { 3 } else { 0 });
                encoder.encode(&pixels, width as u16, height as u16, color).unwrap();
                let what = format!("{color:?} of {width}x{height}, {sampling:?}, {order}");
                if order == "channel by channel" && matches!(sampling, F_1_2 | F_2_2) {
                    // The `image` crate decodes these files incorrectly. Its result for the same data in one scan is the
                    // reference.
                    check_luma(&file, &interleaved, &what);
                    continue;
                }
                if order == "interleaved" {
                    interleaved.clone_from(&file);
                }
                check(&file, if color == ColorType::Rgb { ROUNDED_COLOURS } else { 0 }, &what);
            }
        }
    }
}
