//! Pixels become the model's numbers.

use open_inference::{Datatype, NotRepresentable, Tensor};

use super::settings::{ImageSpec, Layout};

/// Adds pixels, channels together, as the model's numbers. A value has 256 levels, so each number is made once and then only
/// copied, whatever its type.
pub(super) fn write(
    pixels: &[u8],
    spec: &ImageSpec,
    datatype: Datatype,
    data: &mut Vec<u8>,
) -> Result<(), NotRepresentable> {
    let lines =
        (0..spec.channels()).map(|channel| line(pixels, spec, channel, datatype)).collect::<Result<Vec<_>, _>>()?;
    match datatype.size() {
        Some(1) => copy::<1>(pixels, &lines, spec.layout(), data),
        Some(2) => copy::<2>(pixels, &lines, spec.layout(), data),
        Some(4) => copy::<4>(pixels, &lines, spec.layout(), data),
        _ => copy::<8>(pixels, &lines, spec.layout(), data),
    }
    Ok(())
}

/// A channel's number for each of its levels.
fn line(pixels: &[u8], spec: &ImageSpec, channel: usize, datatype: Datatype) -> Result<Tensor, NotRepresentable> {
    let (factor, offset) = spec.line(channel);
    let number = |level: u8| f32::from(level) * factor + offset;
    let line = |numbers: Vec<f32>| Tensor::from_f32("", datatype, vec![numbers.len()], &numbers);
    line((0..=u8::MAX).map(number).collect()).or_else(|_| {
        // What does not occur need not be a number of that type.
        let mut numbers = vec![0.0; 256];
        for &level in pixels.iter().skip(channel).step_by(spec.channels()) {
            numbers[usize::from(level)] = number(level);
        }
        line(numbers)
    })
}

fn copy<const SIZE: usize>(pixels: &[u8], lines: &[Tensor], layout: Layout, data: &mut Vec<u8>) {
    let line = |line: &Tensor| -> [[u8; SIZE]; 256] {
        *line.data.as_chunks().0.first_chunk().expect("a line has a number for each level")
    };
    let start = data.len();
    data.resize(start + pixels.len() * SIZE, 0);
    let numbers = data[start..].as_chunks_mut::<SIZE>().0;
    match (lines, layout) {
        ([gray], _) => {
            let gray = line(gray);
            for (number, &level) in numbers.iter_mut().zip(pixels) {
                *number = gray[usize::from(level)];
            }
        }
        (lines, Layout::Nhwc) => {
            let lines: Vec<_> = lines.iter().map(line).collect();
            for (numbers, levels) in numbers.chunks_exact_mut(lines.len()).zip(pixels.chunks_exact(lines.len())) {
                for ((number, &level), line) in numbers.iter_mut().zip(levels).zip(&lines) {
                    *number = line[usize::from(level)];
                }
            }
        }
        (lines, Layout::Nchw) => {
            let channels = numbers.chunks_exact_mut(pixels.len() / lines.len());
            for ((channel, numbers), of) in channels.enumerate().zip(lines) {
                let line = line(of);
                for (number, &level) in numbers.iter_mut().zip(pixels.iter().skip(channel).step_by(lines.len())) {
                    *number = line[usize::from(level)];
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
    fn every_type_has_the_numbers_that_one_by_one_would_give() {
        let pixels = [0, 1, 2, 3, 4, 5, 60, 61, 62, 7, 8, 9];
        let rows = [0, 1, 0, 3, 4, 3, 60, 61, 60, 7, 8, 7].map(|number: u8| f32::from(number));
        let planes = [0, 3, 60, 7, 1, 4, 61, 8, 0, 3, 60, 7].map(|number: u8| f32::from(number));
        for (shape, numbers) in [([-1, 2, 2, 3], rows), ([-1, 3, 2, 2], planes)] {
            for datatype in [Datatype::Uint8, Datatype::Int16, Datatype::Fp16, Datatype::Fp32, Datatype::Int64] {
                let mut data = vec![9];
                write(&pixels, &spec(r#"{"scale": 1, "mean": [0, 0, 2]}"#, &shape), datatype, &mut data).unwrap();
                let expected = Tensor::from_f32("", datatype, vec![12], &numbers).unwrap();
                assert_eq!((data[0], &data[1..]), (9, &expected.data[..]), "{datatype:?} {shape:?}");
            }
        }
    }

    #[test]
    fn only_a_level_that_occurs_must_be_one_of_the_types_numbers() {
        let doubled = spec(r#"{"scale": 2}"#, &[-1, 1, 2, 1]);
        let mut data = Vec::new();
        write(&[3, 127], &doubled, Datatype::Uint8, &mut data).unwrap();
        assert_eq!(data, [6, 254]);
        assert!(write(&[3, 128], &doubled, Datatype::Uint8, &mut data).is_err());
    }
}
