//! Files that are empty, truncated, damaged, or contradict their own header.

use super::*;

/// A hand-made PNG. `rows` are filtered scan lines, stored without compression.
pub(super) fn png(width: u32, height: u32, bits: u8, color: u8, chunks: &[(&[u8; 4], &[u8])], rows: &[u8]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[bits, color, 0, 0, 0]].concat();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let data = zlib(rows);
    for (name, body) in [(b"IHDR", &header[..])].iter().chain(chunks).chain(&[(b"IDAT", &data[..]), (b"IEND", &[])]) {
        file.extend((body.len() as u32).to_be_bytes());
        let named = [&name[..], body].concat();
        file.extend(&named);
        file.extend(crc32(&named).to_be_bytes());
    }
    file
}

/// A zlib stream of stored blocks.
fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    let mut blocks = bytes.chunks(0xFFFF).peekable();
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        stream.push(u8::from(blocks.peek().is_none()));
        stream.extend(length.to_le_bytes());
        stream.extend((!length).to_le_bytes());
        stream.extend(block);
    }
    let (low, high) = bytes.iter().fold((1_u32, 0_u32), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % 65_521;
        (low, (high + low) % 65_521)
    });
    stream.extend((high << 16 | low).to_be_bytes());
    stream
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn bytes_that_are_no_image_are_rejected() {
    assert_eq!(read(b"", &digit()).unwrap_err(), ImageError::Empty);
    for bytes in [&b"hello, I am a PNG"[..], b"<svg/>", b"\x89PNG", b"GIF", &[0; 100], b"B", b"P"] {
        let error = read(bytes, &digit()).unwrap_err();
        assert!(matches!(error, ImageError::UnknownFormat { .. }), "{error}");
        assert!(error.to_string().contains("PNG, JPEG, BMP, GIF, WebP, TIFF or PNM"), "{error}");
    }
    for bytes in [&b"\x89PNG\r\n\x1a\n"[..], b"\xFF\xD8\xFF", b"GIF89a", b"BM", b"P5", b"II*\0", b"RIFF\0\0\0\0WEBP"] {
        let error = read(bytes, &digit()).unwrap_err();
        assert!(matches!(error, ImageError::Undecodable { .. }), "{error}");
    }
}

#[test]
fn a_truncated_image_is_rejected() {
    let image = DynamicImage::ImageRgb8(quarters(64, 64));
    let png = encode(&image, ImageFormat::Png);
    let error = read(&png[..png.len() / 2], &digit()).unwrap_err();
    assert!(matches!(error, ImageError::Undecodable { format: "PNG", .. }), "{error}");
    let jpeg = encode(&image, ImageFormat::Jpeg);
    for length in [jpeg.len() / 4, jpeg.len() / 2, jpeg.len() - 20] {
        let error = read(&jpeg[..length], &digit()).unwrap_err();
        assert!(matches!(error, ImageError::Undecodable { format: "JPEG", .. }), "{length}: {error}");
    }
}

fn assert_too_large(bytes: &[u8], limits: &ImageLimits, setting: &str) {
    let error = super::super::preprocess(bytes, &digit(), limits).unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { .. }) && error.to_string().contains(setting), "{setting}: {error}");
}

#[test]
fn limits_apply_to_the_header_alone() {
    let limits = ImageLimits::default();
    assert_too_large(&png(20_000, 20_000, 8, 2, &[], &[]), &limits, "MAX_IMAGE_SIDE");
    assert_too_large(&png(10_000, 10_000, 8, 2, &[], &[]), &limits, "MAX_IMAGE_PIXELS");
    // An interlaced image is decoded at full scale.
    let mut interlaced = png(5_000, 6_000, 16, 6, &[], &[]);
    interlaced[28] = 1;
    let crc = crc32(&interlaced[12..29]).to_be_bytes();
    interlaced[29..33].copy_from_slice(&crc);
    assert_too_large(&interlaced, &limits, "MAX_DECODE_BYTES");
    assert_too_large(b"P5\n99999 1\n255\n", &limits, "MAX_IMAGE_SIDE");
    assert_too_large(b"P6\n16000 16000\n255\n", &limits, "MAX_IMAGE_PIXELS");
    assert_too_large(b"P6\n16000 16000\n255\n", &ImageLimits { bytes: 10, ..limits }, "MAX_IMAGE_BYTES");
    let webp = [&b"RIFF\x1A\0\0\0WEBPVP8L\x06\0\0\0\x2F"[..], &[0xFF, 0xFF, 0xFF, 0x0F, 0]].concat();
    assert_too_large(&webp, &limits, "MAX_IMAGE_PIXELS");
    let mut gif = encode(&DynamicImage::ImageRgb8(quarters(4, 4)), ImageFormat::Gif);
    gif[6..10].copy_from_slice(&[0xFF; 4]);
    assert_too_large(&gif, &limits, "MAX_IMAGE_SIDE");
}

#[test]
fn a_message_names_the_limit_and_the_measure() {
    let error = read(&png(20_000, 20_000, 8, 2, &[], &[]), &digit()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "The image is too large: 20000 pixels wide, and the limit is 16384 (MAX_IMAGE_SIDE). \
         Send a smaller image, or raise the limit."
    );
}

#[test]
fn a_large_colour_profile_is_ignored() {
    let profile = [&b"bomb\0\0"[..], &zlib(&vec![0; 20 << 20])].concat();
    let bytes = png(2, 1, 8, 0, &[(b"iCCP", &profile)], &[0, 7, 9]);
    match read(&bytes, &gray(2, 1)) {
        Ok(image) => assert_eq!(image.pixels, [7, 9]),
        Err(error) => assert!(matches!(error, ImageError::Undecodable { .. }), "{error}"),
    }
}

#[test]
fn damaged_files_never_panic() {
    let mut noise = 1_u32;
    let mut next = || {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (noise >> 8) as usize
    };
    let image = DynamicImage::ImageRgb8(quarters(24, 17));
    let limits = ImageLimits { pixels: 1 << 20, decode_bytes: 16 << 20, ..ImageLimits::default() };
    for format in [
        ImageFormat::Png,
        ImageFormat::Jpeg,
        ImageFormat::Bmp,
        ImageFormat::Gif,
        ImageFormat::WebP,
        ImageFormat::Tiff,
        ImageFormat::Pnm,
    ] {
        let whole = encode(&image, format);
        for round in 0..150 {
            let mut damaged = whole.clone();
            for _ in 0..=round % 4 {
                // Half of the damage goes to the headers: they are short, and damage has more effect there.
                let reach = if next() % 2 == 0 { whole.len().min(64) } else { whole.len() };
                damaged[next() % reach] ^= 1 << (next() % 8);
            }
            if round % 3 == 0 {
                damaged.truncate(next() % whole.len());
            }
            for spec in [digit(), rgb(9, 11, "cover"), rgb(9, 11, "contain")] {
                if let Err(error) = super::super::preprocess(&damaged, &spec, &limits) {
                    let text = error.to_string();
                    assert!(!text.contains("breaks the decoder"), "{format:?}: {text}");
                }
            }
        }
    }
}
