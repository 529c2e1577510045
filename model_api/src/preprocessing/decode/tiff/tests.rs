//! Files of laboratory software and scanners, built byte by byte or with the encoder of the `tiff` crate.

use super::super::tests::{sample_image, spec};
use super::*;
use crate::preprocessing::flatten::{to_gray, to_rgb};
use crate::preprocessing::settings::Background;

const SHORT: u16 = 3;
const LONG: u16 = 4;
const FLOAT: u16 = 11;

/// How numbers are written.
#[derive(Clone, Copy, Debug)]
struct Kind {
    is_little: bool,
    is_big_tiff: bool,
}

const PLAIN: Kind = Kind { is_little: true, is_big_tiff: false };

impl Kind {
    fn number(self, number: u64, length: usize) -> Vec<u8> {
        if self.is_little {
            number.to_le_bytes()[..length].to_vec()
        } else {
            number.to_be_bytes()[8 - length..].to_vec()
        }
    }

    /// A file with one strip. `tags` are added to the required ones, or replace them.
    fn file(self, (width, height): (u64, u64), tags: &[(u16, u16, &[u64])], data: &[u8]) -> Vec<u8> {
        let (head, count_length, value_length) = if self.is_big_tiff { (16, 8, 8) } else { (8, 2, 4) };
        let needed: [(u16, u16, &[u64]); 9] = [
            (256, LONG, &[width]),
            (257, LONG, &[height]),
            (258, SHORT, &[8]),
            (259, SHORT, &[1]),
            (262, SHORT, &[1]),
            (273, LONG, &[head as u64]),
            (277, SHORT, &[1]),
            (278, LONG, &[height]),
            (279, LONG, &[data.len() as u64]),
        ];
        let mut all: std::collections::BTreeMap<u16, (u16, &[u64])> =
            needed.iter().map(|&(tag, kind, values)| (tag, (kind, values))).collect();
        all.extend(tags.iter().map(|&(tag, kind, values)| (tag, (kind, values))));
        let mut body = data.to_vec();
        let mut entries = Vec::new();
        for (tag, (kind, values)) in &all {
            let length = if *kind == SHORT { 2 } else { 4 };
            let mut bytes: Vec<u8> = values.iter().flat_map(|&value| self.number(value, length)).collect();
            if bytes.len() > value_length {
                let at = head + body.len();
                body.extend(bytes);
                bytes = self.number(at as u64, value_length);
            }
            bytes.resize(value_length, 0);
            entries.extend(self.number((*tag).into(), 2));
            entries.extend(self.number((*kind).into(), 2));
            entries.extend(self.number(values.len() as u64, value_length));
            entries.extend(bytes);
        }
        let directory = (head + body.len()) as u64;
        let mut file = if self.is_little { b"II".to_vec() } else { b"MM".to_vec() };
        if self.is_big_tiff {
            file.extend([self.number(43, 2), self.number(8, 2), self.number(0, 2), self.number(directory, 8)].concat());
        } else {
            file.extend([self.number(42, 2), self.number(directory, 4)].concat());
        }
        file.extend(body);
        file.extend(self.number(all.len() as u64, count_length));
        file.extend(entries);
        file.extend(self.number(0, value_length));
        file
    }
}

fn kinds() -> impl Iterator<Item = Kind> {
    [(true, false), (false, false), (true, true), (false, true)]
        .into_iter()
        .map(|(is_little, is_big_tiff)| Kind { is_little, is_big_tiff })
}

fn gray_with(file: &[u8], settings: &str) -> Result<Vec<u8>, String> {
    let decoded =
        super::super::decode(file, &spec(settings, 1), &ImageLimits::default()).map_err(|error| error.to_string())?;
    Ok(decoded.flatten_upright(|image| to_gray(image, Background::WHITE)).into_raw())
}

fn gray(file: &[u8]) -> Result<Vec<u8>, String> {
    gray_with(file, "{}")
}

fn rgb(file: &[u8]) -> Vec<u8> {
    let decoded = super::super::decode(file, &spec("{}", 3), &ImageLimits::default()).unwrap();
    decoded.flatten_upright(|image| to_rgb(image, Background::WHITE)).into_raw()
}

fn floats(kind: Kind, values: &[f32], tags: &[(u16, u16, &[u64])]) -> Vec<u8> {
    let data: Vec<u8> = values.iter().flat_map(|value| kind.number(value.to_bits().into(), 4)).collect();
    let tags = [&[(258, SHORT, &[32][..]), (339, SHORT, &[3])], tags].concat();
    kind.file((values.len() as u64, 1), &tags, &data)
}

fn shorts(kind: Kind, values: &[u16], tags: &[(u16, u16, &[u64])]) -> Vec<u8> {
    let data: Vec<u8> = values.iter().flat_map(|&value| kind.number(value.into(), 2)).collect();
    kind.file((values.len() as u64, 1), &[&[(258, SHORT, &[16][..])], tags].concat(), &data)
}

#[test]
fn a_palette_is_looked_up() {
    let map: Vec<u64> =
        [[0, 255, 10, 20], [0, 0, 30, 40], [255, 0, 50, 60]].as_flattened().iter().map(|level| level * 257).collect();
    let mut long = vec![0; 768];
    for (at, &value) in map.iter().enumerate() {
        long[at / 4 * 256 + at % 4] = value;
    }
    let expected = [0, 0, 255, 255, 0, 0, 10, 30, 50, 20, 40, 60];
    for kind in kinds() {
        let bits = kind.file((4, 1), &[(258, SHORT, &[2]), (262, SHORT, &[3]), (320, SHORT, &map)], &[0b0001_1011]);
        assert_eq!(rgb(&bits), expected, "{kind:?}");
        let bytes = kind.file((4, 1), &[(262, SHORT, &[3]), (320, SHORT, &long)], &[0, 1, 2, 3]);
        assert_eq!(rgb(&bytes), expected, "{kind:?}");
        let narrow: Vec<u64> = long.iter().map(|value| value >> 8).collect();
        let bytes = kind.file((4, 1), &[(262, SHORT, &[3]), (320, SHORT, &narrow)], &[0, 1, 2, 3]);
        assert_eq!(rgb(&bytes), expected, "{kind:?}: a palette of 8 bits");
    }
}

#[test]
fn few_bits_map_to_all_levels_and_white_may_be_zero() {
    for kind in kinds() {
        let bits = |bits: u64, photometric: u64, data: &[u8]| {
            gray(&kind.file((3, 2), &[(258, SHORT, &[bits]), (262, SHORT, &[photometric])], data)).unwrap()
        };
        assert_eq!(bits(1, 1, &[0b1010_0000, 0b0110_0000]), [255, 0, 255, 0, 255, 255]);
        assert_eq!(bits(1, 0, &[0b1010_0000, 0b0110_0000]), [0, 255, 0, 255, 0, 0]);
        assert_eq!(bits(4, 1, &[0x0F, 0x80, 0x12, 0x30]), [0, 255, 136, 17, 34, 51]);
        assert_eq!(bits(8, 0, &[0, 1, 2, 3, 254, 255]), [255, 254, 253, 252, 1, 0]);
    }
}

#[test]
fn floats_use_the_range_that_contains_them() {
    for kind in kinds() {
        assert_eq!(gray(&floats(kind, &[0.0, 0.5, 1.0, f32::NAN], &[])), Ok(vec![0, 128, 255, 0]));
        assert_eq!(gray(&floats(kind, &[0.0, 17.0, 254.6], &[])), Ok(vec![0, 17, 255]));
        for values in [[-0.5, 1.0], [0.0, 4095.0]] {
            let error = gray(&floats(kind, &values, &[])).unwrap_err();
            assert!(error.contains("\"range\"") && error.contains(&values[1].to_string()), "{error}");
        }
        let range =
            [(340, FLOAT, &[u64::from((-1.0_f32).to_bits())][..]), (341, FLOAT, &[u64::from(1.0_f32.to_bits())])];
        assert_eq!(gray(&floats(kind, &[-1.0, 0.0, 1.0], &range)), Ok(vec![0, 128, 255]));
        let explicit = gray_with(&floats(kind, &[-1.0, 0.0, 4.0], &range), r#"{"range": [0, 2]}"#);
        assert_eq!(explicit, Ok(vec![0, 0, 255]));
    }
    let wide: Vec<u8> = [0.0, 0.25, 1.0].iter().flat_map(|value: &f64| value.to_le_bytes()).collect();
    let wide = PLAIN.file((3, 1), &[(258, SHORT, &[64]), (339, SHORT, &[3])], &wide);
    assert_eq!(gray(&wide), Ok(vec![0, 64, 255]));
    let half = shorts(PLAIN, &[0, 0x3800, 0x3C00], &[(339, SHORT, &[3])]);
    assert_eq!(gray(&half), Ok(vec![0, 128, 255]));
}

#[test]
fn twelve_bits_in_sixteen_use_the_given_range() {
    let values = [0, 1024, 4095];
    for kind in kinds() {
        assert_eq!(gray(&shorts(kind, &values, &[])), Ok(vec![0, 4, 16]), "without a word, all 16 bits count");
        assert_eq!(gray_with(&shorts(kind, &values, &[]), r#"{"range": [0, 4095]}"#), Ok(vec![0, 64, 255]));
        assert_eq!(gray(&shorts(kind, &values, &[(281, SHORT, &[4095])])), Ok(vec![0, 64, 255]));
        assert_eq!(gray(&shorts(kind, &values, &[(281, SHORT, &[255])])), Ok(vec![0, 4, 16]), "a tag that is wrong");
    }
    let narrow = PLAIN.file((3, 1), &[(281, SHORT, &[100])], &[0, 100, 200]);
    assert_eq!(gray_with(&narrow, r#"{"range": [0, 4095]}"#), Ok(vec![0, 100, 200]), "8 bits have no range");
}

#[test]
fn signed_and_long_samples_need_a_range() {
    let signed = shorts(PLAIN, &[(-1000_i16) as u16, 0, 1000], &[(339, SHORT, &[2])]);
    let error = gray(&signed).unwrap_err();
    assert!(error.contains("signed samples of 16 bits") && error.contains("\"range\""), "{error}");
    assert_eq!(gray_with(&signed, r#"{"range": [-1000, 1000]}"#), Ok(vec![0, 128, 255]));
    let long: Vec<u8> = [0_u32, 50_000, 100_000].iter().flat_map(|value| value.to_le_bytes()).collect();
    let long = PLAIN.file((3, 1), &[(258, SHORT, &[32])], &long);
    assert!(gray(&long).unwrap_err().contains("unsigned samples of 32 bits"));
    assert_eq!(gray_with(&long, r#"{"range": [0, 100000]}"#), Ok(vec![0, 128, 255]));
}

#[test]
fn alpha_is_distinguished_from_extra_channels() {
    let rgba = |extra: &[u64], data: &[u8]| {
        rgb(&PLAIN.file(
            (1, 1),
            &[(258, SHORT, &[8; 4]), (262, SHORT, &[2]), (277, SHORT, &[4]), (338, SHORT, extra)],
            data,
        ))
    };
    assert_eq!(rgba(&[2], &[100, 0, 200, 128]), [177, 127, 227]);
    assert_eq!(rgba(&[1], &[50, 0, 100, 128]), [177, 127, 227]);
    assert_eq!(rgba(&[0], &[100, 0, 200, 128]), [100, 0, 200]);
    let gray_alpha = |extra: u64| {
        gray(&PLAIN.file((2, 1), &[(258, SHORT, &[8; 2]), (277, SHORT, &[2]), (338, SHORT, &[extra])], &[0, 255, 0, 0]))
    };
    assert_eq!(gray_alpha(2), Ok(vec![0, 255]));
    assert_eq!(gray_alpha(0), Ok(vec![0, 0]));
}

#[test]
fn planar_and_cmyk_samples_become_colours() {
    let planes: &[(u16, u16, &[u64])] = &[
        (258, SHORT, &[8; 3]),
        (262, SHORT, &[2]),
        (273, LONG, &[8, 10, 12]),
        (277, SHORT, &[3]),
        (279, LONG, &[2, 2, 2]),
        (284, SHORT, &[2]),
    ];
    assert_eq!(rgb(&PLAIN.file((2, 1), planes, &[1, 2, 3, 4, 5, 6])), [1, 3, 5, 2, 4, 6]);
    let inks = PLAIN.file((1, 1), &[(258, SHORT, &[8; 4]), (262, SHORT, &[5]), (277, SHORT, &[4])], &[255, 0, 128, 0]);
    assert_eq!(rgb(&inks), [0, 255, 127]);
    let brightness = PLAIN.file(
        (1, 1),
        &[(258, SHORT, &[8; 3]), (262, SHORT, &[6]), (277, SHORT, &[3]), (530, SHORT, &[1, 1])],
        &[100, 128, 128],
    );
    assert_eq!(rgb(&brightness), [100; 3]);
}

#[test]
fn the_first_image_is_read_upright() {
    let turned = PLAIN.file((2, 1), &[(274, SHORT, &[3])], &[10, 20]);
    assert_eq!(gray(&turned), Ok(vec![20, 10]));
}

#[test]
fn every_compression_gives_the_same_pixels() {
    use tiff::encoder::compression::DeflateLevel;
    use tiff::encoder::{Compression, Predictor, TiffEncoder, colortype};
    let image = sample_image(75, 41, 1.0).into_rgb8();
    for (name, compression) in [
        ("none", Compression::Uncompressed),
        ("LZW", Compression::Lzw),
        ("Deflate", Compression::Deflate(DeflateLevel::Fast)),
        ("PackBits", Compression::Packbits),
    ] {
        for predictor in [Predictor::None, Predictor::Horizontal] {
            let mut file = std::io::Cursor::new(Vec::new());
            let encoder = TiffEncoder::new(&mut file).unwrap();
            let mut encoder = encoder.with_compression(compression).with_predictor(predictor);
            encoder.write_image::<colortype::RGB8>(75, 41, image.as_raw()).unwrap();
            assert!(rgb(file.get_ref()) == *image.as_raw(), "{name}");
        }
    }
}

#[test]
fn zstandard_is_decompressed_within_the_limit() {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    let rows: Vec<Vec<u8>> =
        [[10, 20, 30], [40, 50, 60]].iter().map(|row| compress_to_vec(&row[..], CompressionLevel::Fastest)).collect();
    for kind in kinds() {
        let head = if kind.is_big_tiff { 16 } else { 8 };
        let length = rows[0].len() as u64;
        let two: &[(u16, u16, &[u64])] = &[
            (259, SHORT, &[50_000]),
            (273, LONG, &[head, head + length]),
            (278, LONG, &[1]),
            (279, LONG, &[length, rows[1].len() as u64]),
        ];
        let file = kind.file((3, 2), two, &rows.concat());
        assert_eq!(gray(&file), Ok(vec![10, 20, 30, 40, 50, 60]), "{kind:?}");
        let one = kind.file((3, 1), &[(259, SHORT, &[50_000])], &rows[0]);
        assert_eq!(gray(&one), Ok(vec![10, 20, 30]), "{kind:?}");
        for length in 0..file.len() {
            // The last eight bytes are the offset of the next image.
            assert!(length + 8 >= file.len() || gray(&file[..length]).is_err(), "{kind:?}: {length}");
        }
    }
    let bomb = compress_to_vec(&vec![0; 4 << 20][..], CompressionLevel::Fastest);
    let bomb = PLAIN.file((3, 1), &[(259, SHORT, &[50_000])], &bomb);
    let limits = ImageLimits { decode_bytes: 1 << 20, ..ImageLimits::default() };
    let error = super::super::decode(&bomb, &spec("{}", 1), &limits).err().unwrap().to_string();
    assert!(error.contains("MAX_DECODE_BYTES"), "{error}");
}

#[test]
fn an_unsupported_feature_is_named_with_a_remedy() {
    for (tags, word) in [
        (&[(259, SHORT, &[34_925][..])][..], "LZMA"),
        (&[(259, SHORT, &[34_712])], "JPEG 2000"),
        (&[(262, SHORT, &[8])], "L*a*b*"),
        (&[(258, SHORT, &[12])], "12 bits"),
        (&[(339, SHORT, &[6])], "complex"),
    ] {
        let error = gray(&PLAIN.file((1, 1), tags, &[0; 8])).unwrap_err();
        assert!(error.contains(word) && error.contains("save it"), "{error}");
    }
}

#[test]
fn a_large_image_is_reduced_while_it_is_decoded() {
    let values: Vec<u16> = (0..256_u16).flat_map(|y| (0..256).map(move |x| x * 200 + y % 7)).collect();
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let starts: Vec<u64> = (0..256).map(|row| 8 + row * 512).collect();
    let file = PLAIN.file(
        (256, 256),
        &[(258, SHORT, &[16]), (273, LONG, &starts), (278, LONG, &[1]), (279, LONG, &[512; 256])],
        &data,
    );
    let limits = ImageLimits { decode_bytes: 40_000, ..ImageLimits::default() };
    let image = super::super::decode(&file, &spec("{}", 1), &limits)
        .unwrap()
        .flatten_upright(|image| to_gray(image, Background::WHITE));
    assert_eq!(image.dimensions(), (128, 128));
    for (x, _, pixel) in image.enumerate_pixels() {
        assert!((f64::from(pixel.0[0]) - f64::from(2 * x) * 200.0 / 257.0).abs() < 2.0);
    }
    let error =
        super::super::decode(&file, &spec("{}", 1), &ImageLimits { decode_bytes: 1000, ..limits }).err().unwrap();
    assert!(error.to_string().contains("MAX_DECODE_BYTES"), "{error}");
}

#[test]
fn damaged_files_never_panic() {
    let map = vec![500; 768];
    let files = [
        PLAIN.file((5, 4), &[(262, SHORT, &[3]), (320, SHORT, &map)], &[7; 20]),
        floats(Kind { is_little: false, is_big_tiff: true }, &[0.5; 6], &[]),
        shorts(PLAIN, &[9; 12], &[(277, SHORT, &[2]), (338, SHORT, &[1]), (284, SHORT, &[2]), (281, SHORT, &[99])]),
        PLAIN.file((9, 3), &[(258, SHORT, &[1]), (262, SHORT, &[0])], &[0x5A; 6]),
    ];
    let limits = ImageLimits { pixels: 1 << 16, decode_bytes: 1 << 20, ..ImageLimits::default() };
    let check = |file: &[u8]| {
        if let Err(error) = super::super::decode(file, &spec("{}", 3), &limits) {
            assert!(!error.to_string().contains("breaks the decoder"), "{error}");
        }
    };
    for file in files {
        for length in 0..file.len() {
            check(&file[..length]);
        }
        for at in 0..file.len() {
            for change in [1, 0x80, 0xFF] {
                let mut damaged = file.clone();
                damaged[at] ^= change;
                check(&damaged);
            }
        }
    }
}
