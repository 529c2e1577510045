//! Conversion of pixels to the model's numbers, with a lookup table per channel.

use open_inference::{Datatype, NotRepresentable, Tensor};

use super::settings::{ImageSpec, Layout};

/// Appends pixels with interleaved channels as the model's numbers. A value has 256 levels, so each number is computed once and
/// then only copied, whatever its type.
pub(super) fn write_row(
    pixels: &[u8],
    spec: &ImageSpec,
    datatype: Datatype,
    data: &mut Vec<u8>,
) -> Result<(), NotRepresentable> {
    let tables = (0..spec.channels())
        .map(|channel| lookup_table(pixels, spec, channel, datatype))
        .collect::<Result<Vec<_>, _>>()?;
    match datatype.size() {
        Some(1) => write_levels::<1>(pixels, &tables, spec.layout(), data),
        Some(2) => write_levels::<2>(pixels, &tables, spec.layout(), data),
        Some(4) => write_levels::<4>(pixels, &tables, spec.layout(), data),
        _ => write_levels::<8>(pixels, &tables, spec.layout(), data),
    }
    Ok(())
}

/// The number of each level of a channel.
fn lookup_table(
    pixels: &[u8],
    spec: &ImageSpec,
    channel: usize,
    datatype: Datatype,
) -> Result<Tensor, NotRepresentable> {
    let (factor, offset) = spec.affine(channel);
    let number = |level: u8| f32::from(level) * factor + offset;
    let tensor = |numbers: Vec<f32>| Tensor::from_f32("", datatype, vec![numbers.len()], &numbers);
    tensor((0..=u8::MAX).map(number).collect()).or_else(|_| {
        // A level that does not occur need not be representable in the datatype.
        let mut numbers = vec![0.0; 256];
        for &level in pixels.iter().skip(channel).step_by(spec.channels()) {
            numbers[usize::from(level)] = number(level);
        }
        tensor(numbers)
    })
}

fn write_levels<const SIZE: usize>(pixels: &[u8], tables: &[Tensor], layout: Layout, data: &mut Vec<u8>) {
    let table = |table: &Tensor| -> [[u8; SIZE]; 256] {
        *table.data.as_chunks().0.first_chunk().expect("a table has a number for each level")
    };
    let start = data.len();
    data.resize(start + pixels.len() * SIZE, 0);
    let numbers = data[start..].as_chunks_mut::<SIZE>().0;
    match (tables, layout) {
        ([gray], _) => {
            let gray = table(gray);
            for (number, &level) in numbers.iter_mut().zip(pixels) {
                *number = gray[usize::from(level)];
            }
        }
        (tables, Layout::Nhwc) => {
            let tables: Vec<_> = tables.iter().map(table).collect();
            for (numbers, levels) in numbers.chunks_exact_mut(tables.len()).zip(pixels.chunks_exact(tables.len())) {
                for ((number, &level), table) in numbers.iter_mut().zip(levels).zip(&tables) {
                    *number = table[usize::from(level)];
                }
            }
        }
        (tables, Layout::Nchw) => {
            let channels = numbers.chunks_exact_mut(pixels.len() / tables.len());
            for ((channel, numbers), channel_table) in channels.enumerate().zip(tables) {
                let table = table(channel_table);
                for (number, &level) in numbers.iter_mut().zip(pixels.iter().skip(channel).step_by(tables.len())) {
                    *number = table[usize::from(level)];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(settings: &str, shape: &[i64]) -> ImageSpec {
        ImageSpec::resolve(&serde_json::from_str(settings).unwrap(), Datatype::Fp32, shape).unwrap()
    }

    #[test]
    fn every_datatype_has_the_numbers_of_a_conversion_one_by_one() {
        let pixels = [0, 1, 2, 3, 4, 5, 60, 61, 62, 7, 8, 9];
        let rows = [0, 1, 0, 3, 4, 3, 60, 61, 60, 7, 8, 7].map(|number: u8| f32::from(number));
        let planes = [0, 3, 60, 7, 1, 4, 61, 8, 0, 3, 60, 7].map(|number: u8| f32::from(number));
        for (shape, numbers) in [([-1, 2, 2, 3], rows), ([-1, 3, 2, 2], planes)] {
            for datatype in [Datatype::Uint8, Datatype::Int16, Datatype::Fp16, Datatype::Fp32, Datatype::Int64] {
                let mut data = vec![9];
                write_row(&pixels, &spec(r#"{"scale": 1, "mean": [0, 0, 2]}"#, &shape), datatype, &mut data).unwrap();
                let expected = Tensor::from_f32("", datatype, vec![12], &numbers).unwrap();
                assert_eq!((data[0], &data[1..]), (9, &expected.data[..]), "{datatype:?} {shape:?}");
            }
        }
    }

    #[test]
    fn only_levels_that_occur_must_be_representable() {
        let doubled = spec(r#"{"scale": 2}"#, &[-1, 1, 2, 1]);
        let mut data = Vec::new();
        write_row(&[3, 127], &doubled, Datatype::Uint8, &mut data).unwrap();
        assert_eq!(data, [6, 254]);
        assert!(write_row(&[3, 128], &doubled, Datatype::Uint8, &mut data).is_err());
    }
}
