//! PNG encoder for segmentation maps.

use super::png::{EncodedImage, png_dimension};
use crate::error::Error;

/// Number of classes that fit a palette.
const PALETTE_SIZE: u32 = 256;

/// Encodes a map of class numbers as PNG with the colours of [`class_colour`]. Up to 256 classes use a palette, so that
/// a decoder can recover the class numbers. With more classes, pixels are RGB.
///
/// `map` has `width` × `height` class numbers, row by row from the top.
pub fn encode_class_map(map: &[u32], width: usize, height: usize) -> Result<EncodedImage, Error> {
    let not_encodable =
        |error: png::EncodingError| Error::unprocessable(format!("a class map cannot be encoded: {error}"));
    let file = encode(map, width, height).map_err(not_encodable)?;
    Ok(EncodedImage { file, width, height })
}

fn encode(map: &[u32], width: usize, height: usize) -> Result<Vec<u8>, png::EncodingError> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, png_dimension(width)?, png_dimension(height)?);
    let last = map.iter().copied().max().unwrap_or(0);
    let pixels: Vec<u8> = if last < PALETTE_SIZE {
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_palette((0..=last).flat_map(class_colour).collect::<Vec<u8>>());
        map.iter().map(|&class| class as u8).collect()
    } else {
        encoder.set_color(png::ColorType::Rgb);
        map.iter().flat_map(|&class| class_colour(class)).collect()
    };
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    Ok(file)
}

/// Colour of a class as red, green and blue, after the colour map of the PASCAL VOC data set: 0 is black, 1 dark red, 2
/// dark green, 3 olive. The bits of the class number are distributed to the channels in turn, from the lowest to the
/// highest bit.
pub fn class_colour(class: u32) -> [u8; 3] {
    let channel =
        |first: u32| (0..8).fold(0, |colour, bit| colour | ((class >> (3 * bit + first) & 1) << (7 - bit)) as u8);
    [channel(0), channel(1), channel(2)]
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn decode(file: &[u8]) -> (png::ColorType, Vec<u8>, Vec<u8>) {
        let mut reader = png::Decoder::new(Cursor::new(file)).read_info().unwrap();
        let palette = reader.info().palette.as_ref().map(|palette| palette.to_vec()).unwrap_or_default();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let color = reader.next_frame(&mut pixels).unwrap().color_type;
        (color, palette, pixels)
    }

    #[test]
    fn colours_equal_those_of_pascal_voc() {
        let colours = [0, 1, 2, 3, 4, 8, 20].map(class_colour);
        let voc = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [64, 0, 0], [0, 64, 128]];
        assert_eq!(colours, voc);
    }

    #[test]
    fn palette_indices_are_class_numbers() {
        let map = encode_class_map(&[0, 2, 1, 0, 0, 2], 3, 2).unwrap();
        assert_eq!((map.width, map.height), (3, 2));
        let (color, palette, pixels) = decode(&map.file);
        assert_eq!((color, pixels), (png::ColorType::Indexed, vec![0, 2, 1, 0, 0, 2]));
        assert_eq!(palette, [0, 0, 0, 128, 0, 0, 0, 128, 0]);
    }

    #[test]
    fn more_classes_than_palette_entries_become_rgb() {
        let (color, _, pixels) = decode(&encode_class_map(&[0, 300], 2, 1).unwrap().file);
        assert_eq!((color, &pixels[3..]), (png::ColorType::Rgb, &class_colour(300)[..]));
    }
}
