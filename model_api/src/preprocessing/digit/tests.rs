use image::{GrayImage, Luma};

use super::*;

/// A figure like a seven, a bar and a slanted leg: 255 on black, with strokes about `pen` wide.
fn seven(canvas: u32, left: f32, top: f32, size: f32, pen: f32) -> GrayImage {
    let ink = |x: f32, y: f32| {
        let roof = (y - top).abs() <= pen / 2.0 && (left..=left + size * 0.6).contains(&x);
        let middle = left + size * 0.6 - (y - top) * 0.4;
        let leg = (x - middle).abs() <= pen / 2.0 && (top..=top + size).contains(&y);
        if roof || leg { 1.0 } else { 0.0 }
    };
    GrayImage::from_fn(canvas, canvas, |x, y| {
        // 4 × 4 samples per pixel.
        let samples = (0..16).map(|i| ink(x as f32 + (i % 4) as f32 / 4.0, y as f32 + (i / 4) as f32 / 4.0));
        Luma([(samples.sum::<f32>() / 16.0 * 255.0) as u8])
    })
}

fn changed(image: &GrayImage, change: impl Fn(u32, u32, f32) -> f32) -> GrayImage {
    GrayImage::from_fn(image.width(), image.height(), |x, y| {
        Luma([change(x, y, f32::from(image.get_pixel(x, y).0[0]) / 255.0).clamp(0.0, 255.0) as u8])
    })
}

/// Fraction of the mass in which two normalised images differ.
fn difference(a: &[u8], b: &[u8]) -> f32 {
    let off: u32 = a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
    let ink: u32 = b.iter().map(|value| u32::from(*value)).sum();
    off as f32 / ink as f32
}

fn normalized(image: &GrayImage) -> Vec<u8> {
    normalize(image, 28, 28)
}

fn the_seven() -> Vec<u8> {
    normalized(&seven(200, 50.0, 40.0, 120.0, 14.0))
}

fn noise(x: u32, y: u32) -> f32 {
    ((x.wrapping_mul(7919) ^ y.wrapping_mul(104_729)).wrapping_mul(2_654_435_761) >> 24) as f32 / 255.0 - 0.5
}

#[test]
fn the_digit_is_scaled_and_centred_as_in_mnist() {
    let pixels = the_seven();
    let (mut mass, mut sum_x, mut sum_y, mut rows) = (0.0, 0.0, 0.0, 0);
    for (y, row) in pixels.chunks(28).enumerate() {
        rows += usize::from(row.iter().any(|value| *value > 40));
        for (x, value) in row.iter().enumerate() {
            mass += f32::from(*value);
            sum_x += f32::from(*value) * x as f32;
            sum_y += f32::from(*value) * y as f32;
        }
    }
    assert!((19..=20).contains(&rows), "{rows} rows");
    assert!((sum_x / mass - 14.0).abs() <= 0.6 && (sum_y / mass - 14.0).abs() <= 0.6);
    assert!(pixels.iter().filter(|value| **value > 250).count() > 20);
}

#[test]
fn a_normalized_digit_is_unchanged() {
    let once = the_seven();
    let again = normalized(&GrayImage::from_raw(28, 28, once.clone()).unwrap());
    assert!(difference(&again, &once) < 0.05, "{}", difference(&again, &once));
}

#[test]
fn position_size_and_polarity_have_no_effect() {
    let expected = the_seven();
    for (case, image) in [
        ("inverted", changed(&seven(200, 50.0, 40.0, 120.0, 14.0), |_, _, ink| 255.0 * (1.0 - ink))),
        ("moved", seven(300, 180.0, 170.0, 120.0, 14.0)),
        ("larger", seven(420, 110.0, 80.0, 240.0, 28.0)),
        ("small in a large image", seven(1200, 900.0, 120.0, 60.0, 7.0)),
        ("tiny in a huge image", seven(3000, 2100.0, 400.0, 60.0, 7.0)),
        ("faint", changed(&seven(200, 50.0, 40.0, 120.0, 14.0), |_, _, ink| 180.0 - 25.0 * ink)),
        (
            "shaded",
            changed(&seven(200, 50.0, 40.0, 120.0, 14.0), |x, y, ink| {
                (235.0 - 0.4 * x as f32 - 0.15 * y as f32) * (1.0 - 0.6 * ink)
            }),
        ),
        ("grainy", changed(&seven(200, 50.0, 40.0, 120.0, 14.0), |x, y, ink| 210.0 - 130.0 * ink + 24.0 * noise(x, y))),
        (
            "with specks",
            changed(&seven(200, 50.0, 40.0, 120.0, 14.0), |x, y, ink| {
                if matches!((x, y), (15..18, 180..183) | (188..191, 9..12)) { 255.0 } else { 255.0 * ink }
            }),
        ),
        (
            "with a dark border",
            changed(&seven(200, 50.0, 40.0, 120.0, 14.0), |x, y, ink| {
                if x == 0 || y == 0 || x == 199 || y == 199 { 60.0 } else { 255.0 * (1.0 - ink) }
            }),
        ),
    ] {
        let off = difference(&normalized(&image), &expected);
        assert!(off < 0.25, "{case}: {off}");
    }
}

#[test]
fn a_hairline_on_a_large_canvas_stays_visible() {
    let pixels = normalized(&seven(600, 150.0, 60.0, 460.0, 2.0));
    assert!(pixels.iter().filter(|value| **value > 180).count() >= 25);
}

#[test]
fn a_blank_page_has_no_digit() {
    let blank = |value: fn(u32, u32) -> f32, side| changed(&GrayImage::new(side, side), move |x, y, _| value(x, y));
    for page in [
        blank(|_, _| 0.0, 28),
        blank(|_, _| 255.0, 400),
        blank(|_, _| 90.0, 1),
        blank(|x, y| 200.0 + 12.0 * noise(x, y), 300),
        blank(|x, y| 120.0 + 0.3 * x as f32 + 0.1 * y as f32, 300),
    ] {
        assert!(normalized(&page).iter().all(|value| *value == 0));
    }
}

#[test]
fn other_model_sizes_keep_the_proportions() {
    let pixels = normalize(&seven(200, 50.0, 40.0, 120.0, 14.0), 64, 56);
    let rows = pixels.chunks(64).filter(|row| row.iter().any(|value| *value > 40)).count();
    assert_eq!(pixels.len(), 64 * 56);
    assert!((39..=40).contains(&rows), "{rows} rows");
    for side in [1, 2, 3] {
        assert_eq!(normalize(&seven(100, 20.0, 20.0, 60.0, 8.0), side, side).len(), (side * side) as usize);
    }
}
