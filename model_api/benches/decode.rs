//! Preprocessing time of images: decoding, resizing to the model's size, and both with the conversion to numbers.
//!
//! `cargo bench -p model_api --bench decode`. The results are in `docs/DECODING.md`.

use std::hint::black_box;
use std::io::Cursor;
use std::path::Path;

use criterion::{BatchSize, BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, resize};
use image::{DynamicImage, GrayImage, ImageFormat, Luma, RgbImage};
use model_api::preprocessing::{DecodedImage, ImageLimits, ImageSpec, preprocess};
use open_inference::Datatype;

/// An encoded image and its preprocessing.
struct Kind {
    name: &'static str,
    bytes: Vec<u8>,
    spec: ImageSpec,
}

fn kinds() -> Vec<Kind> {
    let digit = || spec(r#"{"fit": "digit", "scale": 0.00392156862745098}"#, &[-1, 28, 28, 1]);
    let cell = |side| spec(r#"{"fit": "contain", "scale": 0.00392156862745098}"#, &[-1, 3, side, side]);
    let photographed = sample("mnist/samples/photographed-5.png");
    let blast = sample("leukemia/samples/blast-1.png");
    let pixels = |bytes: &[u8]| image::load_from_memory(bytes).expect("a sample is an image");
    let taken = DynamicImage::from(resize(&pixels(&photographed).into_luma8(), 1600, 1200, FilterType::CatmullRom));
    let jpeg = |image: DynamicImage| {
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, 90).encode_image(&image.into_rgb8()).expect("RGB becomes a JPEG");
        bytes
    };
    [
        ("digit 28x28 png", sample("mnist/samples/digit-5.png"), digit()),
        (
            "canvas 500x500 png, rgba",
            encoded(&DynamicImage::from(canvas()).to_rgba8().into(), ImageFormat::Png),
            digit(),
        ),
        ("canvas 500x500 png, rgb", encoded(&DynamicImage::from(canvas()), ImageFormat::Png), digit()),
        ("photographed 240x240 png", photographed, digit()),
        ("photographed 1600x1200 jpeg", jpeg(taken), digit()),
        ("cell 450x450 png", blast.clone(), cell(450)),
        ("cell 450x450 jpeg", jpeg(pixels(&blast)), cell(450)),
        ("cell 450x450 bmp", encoded(&pixels(&blast), ImageFormat::Bmp), cell(450)),
        ("cell 450x450 png to 224x224", blast, cell(224)),
    ]
    .map(|(name, bytes, spec)| Kind { name, bytes, spec })
    .into()
}

fn spec(settings: &str, shape: &[i64]) -> ImageSpec {
    let settings = serde_json::from_str(settings).expect("settings are JSON");
    ImageSpec::resolve(&settings, Datatype::Fp32, shape).expect("the settings fit the shape")
}

fn sample(path: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(path);
    std::fs::read(path).expect("the sample is in the repository")
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, format).expect("writing to memory does not fail");
    file.into_inner()
}

/// A three as drawn with a mouse: a soft stroke of 22 pixels, black on white.
fn canvas() -> RgbImage {
    let gray = GrayImage::from_fn(500, 500, |x, y| {
        let (x, y) = (x as f32, y as f32);
        let off = [170.0, 330.0].map(|middle: f32| {
            let (across, down) = (x - 240.0, y - middle);
            let ring = (across.hypot(down) - 80.0).abs();
            if across > -30.0 { ring } else { f32::INFINITY }
        });
        Luma([((off[0].min(off[1]) - 10.0) * 128.0).clamp(0.0, 255.0) as u8])
    });
    DynamicImage::from(gray).into_rgb8()
}

fn decode(criterion: &mut Criterion) {
    each(criterion, "decode", |group, Kind { name, bytes, spec }| {
        let limits = ImageLimits::default();
        group.bench_function(*name, |bencher| bencher.iter(|| DecodedImage::decode(black_box(bytes), spec, &limits)));
    });
}

fn fit(criterion: &mut Criterion) {
    each(criterion, "fit", |group, Kind { name, bytes, spec }| {
        let opened = DecodedImage::decode(bytes, spec, &ImageLimits::default()).expect("it is an image");
        group.bench_function(*name, |bencher| {
            bencher.iter_batched(|| opened.clone(), |opened| opened.fit(spec), BatchSize::SmallInput);
        });
    });
}

fn preprocessing(criterion: &mut Criterion) {
    each(criterion, "preprocessing", |group, Kind { name, bytes, spec }| {
        let limits = ImageLimits::default();
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                let mut data = Vec::new();
                let image = preprocess(black_box(bytes), spec, &limits).expect("it is an image");
                image.write_row(Datatype::Fp32, &mut data).expect("floats are floats");
                data
            });
        });
    });
}

fn each(criterion: &mut Criterion, name: &str, bench: fn(&mut BenchmarkGroup<WallTime>, &Kind)) {
    let mut group = criterion.benchmark_group(name);
    for kind in kinds() {
        bench(&mut group, &kind);
    }
    group.finish();
}

criterion_group!(benches, decode, fit, preprocessing);
criterion_main!(benches);
