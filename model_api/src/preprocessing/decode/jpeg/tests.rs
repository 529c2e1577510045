//! Files without an end marker, files with trailing data, and decoding at a reduced scale, compared with decoding at full scale.

use image::RgbImage;
use image::imageops::{FilterType, resize};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

use super::super::tests::sample_image;
use super::scan::Decoder;
use super::*;
use crate::preprocessing::flatten::to_gray;
use crate::preprocessing::settings::{Background, Color};

/// A photo in each mode of this encoder.
fn photos(width: u32, height: u32) -> Vec<(String, Vec<u8>)> {
    use SamplingFactor::{F_1_1, F_1_2, F_2_1, F_2_2, F_4_1};
    let photo = sample_image(width, height, 1.0);
    let mut files = Vec::new();
    for (color, pixels, sampling) in [
        (ColorType::Luma, photo.to_luma8().into_raw(), F_1_1),
        (ColorType::Rgb, photo.to_rgb8().into_raw(), F_1_1),
        (ColorType::Rgb, photo.to_rgb8().into_raw(), F_2_1),
        (ColorType::Rgb, photo.to_rgb8().into_raw(), F_1_2),
        (ColorType::Rgb, photo.to_rgb8().into_raw(), F_2_2),
        (ColorType::Rgb, photo.to_rgb8().into_raw(), F_4_1),
        (ColorType::Cmyk, photo.to_rgba8().into_raw(), F_1_1),
        (ColorType::CmykAsYcck, photo.to_rgba8().into_raw(), F_2_2),
    ] {
        for order in ["interleaved", "restarted", "channel by channel", "progressive", "progressive, restarted"] {
            let mut file = Vec::new();
            let mut encoder = Encoder::new(&mut file, 90);
            encoder.set_sampling_factor(sampling);
            encoder.set_progressive(order.starts_with("progressive"));
            encoder.set_optimized_huffman_tables(order == "channel by channel");
            encoder.set_restart_interval(if order.ends_with("restarted") { 3 } else { 0 });
            encoder.encode(&pixels, width as u16, height as u16, color).unwrap();
            files.push((format!("{color:?} of {width}x{height}, {sampling:?}, {order}"), file));
        }
    }
    files
}

fn is_complete_file(bytes: &[u8]) -> bool {
    match find_end(bytes) {
        Ok(Ending::Marker(image)) => image.len() <= bytes.len(),
        Ok(Ending::NoMarker) => true,
        Err(_) => false,
    }
}

#[test]
fn a_file_is_complete_without_an_end_marker_and_with_trailing_data() {
    for (what, file) in photos(75, 50) {
        let image = &file[..file.len() - 2];
        assert!(is_complete_file(&file) && is_complete_file(image), "{what}");
        for behind in [&[0; 40][..], b"\xFF\xD8\xFF\xDA\0\x08\x01", &[0xFF; 9], b"\0\0\0\x18ftypmp42\xFF\xDA\xFF\xD9"] {
            assert!(is_complete_file(&[&file, behind].concat()), "{what} and {behind:?}");
        }
        assert!(is_complete_file(&[image, &[0; 40]].concat()), "{what}, zeros in place of its end");
    }
}

#[test]
fn a_file_with_incomplete_scans_is_truncated() {
    for (what, file) in photos(41, 33) {
        // The last bits of a scan are padding, and the last block may consist of padding only.
        for length in (0..file.len() - 6).step_by(7) {
            assert!(!is_complete_file(&file[..length]), "{what}: {length} of {}", file.len());
        }
    }
}

/// The mean and the largest difference.
fn difference(found: &[u8], expected: &[u8]) -> (f64, u8) {
    assert_eq!(found.len(), expected.len());
    let each = || found.iter().zip(expected).map(|(found, expected)| found.abs_diff(*expected));
    (each().map(f64::from).sum::<f64>() / found.len() as f64, each().max().unwrap_or(0))
}

#[test]
fn scaled_decoding_matches_downscaling_afterwards() {
    let mut whole = RgbImage::new(0, 0);
    for (what, file) in photos(256, 160) {
        // The order of the same data has no effect, and `zune-jpeg` decodes some orders incorrectly.
        if what.ends_with(" interleaved") {
            whole = image::load_from_memory(&file).unwrap().into_rgb8();
        }
        for divisor in [1, 2, 4, 8] {
            let reduced = ScaledJpeg::new(&file, Color::Rgb).unwrap().decode(divisor).unwrap();
            assert_eq!((reduced.width(), reduced.height()), (256 / divisor, 160 / divisor), "{what}");
            // The comparison is made after the model's own resize, at a few pixels per side.
            let see = |image: &RgbImage| resize(image, 16, 10, FilterType::CatmullRom).into_raw();
            let (mean, most) = difference(&see(&reduced.to_rgb8()), &see(&whole));
            assert!(mean < 2.0 && most < 16, "{what} by {divisor}: {mean} on average, {most} at most");
        }
    }
    let (_, file) = photos(250, 131).swap_remove(6);
    let reduced = ScaledJpeg::new(&file, Color::Rgb).unwrap().decode(8).unwrap();
    assert_eq!((reduced.width(), reduced.height()), (32, 17));
}

#[test]
fn luma_alone_matches_the_luma_of_the_colours() {
    for (what, file) in photos(120, 90) {
        let decode = |color| ScaledJpeg::new(&file, color).unwrap().decode(2).unwrap();
        let (gray, colours) = (decode(Color::Gray), decode(Color::Rgb));
        let see = |image| to_gray(image, Background::WHITE).into_raw();
        let (mean, _) = difference(&see(gray), &see(colours));
        assert!(mean < 1.0, "{what}: {mean}");
    }
}

#[test]
fn damaged_files_never_panic_at_reduced_scale() {
    let mut noise = 7_u32;
    let mut next = || {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (noise >> 8) as usize
    };
    for (_, file) in photos(40, 24) {
        for _ in 0..40 {
            let mut damaged = file.clone();
            for _ in 0..3 {
                let at = next() % damaged.len();
                damaged[at] = next() as u8;
            }
            damaged.truncate(damaged.len() - next() % 40);
            let within = |reduced: &ScaledJpeg| reduced.memory(2) < 1 << 24;
            if let Some(reduced) = ScaledJpeg::new(&damaged, Color::Rgb).ok().filter(within) {
                drop(reduced.decode(2));
            }
            if Decoder::new(&damaged).is_ok_and(|decoder| decoder.frame.width * decoder.frame.height < 1 << 20) {
                is_complete_file(&damaged);
            }
        }
    }
}
